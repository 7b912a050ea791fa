"""The assignment id: signed and self-describing, so that feedback is credited without a look-up.

It names the variant that really served, whatever the weights are when the feedback comes.
"""

from __future__ import annotations

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from anabranch.proto.native import native
from anabranch.store.records import Flag

_VERSION = 1
_BODY = struct.Struct("<BIIBBIQif")
_MAC_BYTES = 8


class ForgedAssignment(ValueError):
    """The assignment id was not given out by this installation, or was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an assignment id says.

    Attributes:
        experiment: Number of the experiment.
        lane: Journal lane that recorded the request.
        sequence: Number of the request in that lane.
        top1: Class of the reply, -1 when it has none.
    """

    experiment: int
    epoch: int
    arm: int
    flags: Flag
    lane: int
    sequence: int
    top1: int
    propensity: float


class AssignmentIds:
    """Gives out and reads assignment ids with one installation's key.

    Attributes:
        key: Signs them.
    """

    LETTERS: Final = 4 * ((_BODY.size + _MAC_BYTES) // 3)
    """Of an id, of which there are no others: its bytes are a multiple of three."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError(f"the key has {len(key)} bytes, at least 16 are needed")
        self.key = key
        compiled = native()
        self._seal: Callable[[bytes, bytes], str] = _seal if compiled is None else compiled.seal
        self._digest: Callable[[bytes, bytes], bytes] = _digest if compiled is None else compiled.unit_digest

    def seal(self, assignment: Assignment) -> str:
        """The id of an assignment."""
        return self.give_out(
            assignment.experiment,
            assignment.epoch,
            assignment.arm,
            assignment.flags,
            assignment.lane,
            assignment.sequence,
            assignment.top1,
            assignment.propensity,
        )

    def give_out(
        self,
        experiment: int,
        epoch: int,
        arm: int,
        flags: int,
        lane: int,
        sequence: int,
        top1: int,
        propensity: float,
    ) -> str:
        """The id of an assignment from its fields: a request has no time for an `Assignment`."""
        body = _BODY.pack(_VERSION, experiment, epoch, arm, flags, lane, sequence, top1, propensity)
        return self._seal(self.key, body)

    def open(self, text: str) -> Assignment:
        """The assignment of an id.

        Raises:
            ForgedAssignment: If the id is malformed, of another installation, or changed.
        """
        if not text:
            raise ForgedAssignment(
                "assignment_id is empty: an answer has one only where an experiment's split chose its variant, "
                "not the request; report no outcome of others"
            )
        try:
            sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (Base64Error, ValueError) as error:
            raise ForgedAssignment(
                "assignment_id is not base64: send it as it came with the answer"
            ) from error
        body, mac = sealed[: _BODY.size], sealed[_BODY.size :]
        if len(sealed) != _BODY.size + _MAC_BYTES or not hmac.compare_digest(mac, _mac(self.key, body)):
            raise ForgedAssignment(
                "assignment_id was not given out by this installation: send it as it came with the answer"
            )
        version, experiment, epoch, arm, flags, lane, sequence, top1, propensity = _BODY.unpack(body)
        if version != _VERSION:
            raise ForgedAssignment(f"assignment_id has format {version}, this server reads {_VERSION}")
        return Assignment(
            experiment=experiment,
            epoch=epoch,
            arm=arm,
            flags=Flag(flags),
            lane=lane,
            sequence=sequence,
            top1=top1,
            propensity=propensity,
        )

    def digest(self, unit: bytes) -> bytes:
        """16 bytes that stand for a unit in records, so that journals hold no user ids."""
        return self._digest(self.key, unit)


def _mac(key: bytes, body: bytes) -> bytes:
    return blake2b(body, digest_size=_MAC_BYTES, key=key).digest()


def _seal(key: bytes, body: bytes) -> str:
    return urlsafe_b64encode(body + _mac(key, body)).decode().rstrip("=")


def _digest(key: bytes, unit: bytes) -> bytes:
    return blake2b(unit, digest_size=16, key=key).digest()
