"""What requests of one kind have in common, as the express path needs it: fields, arms, and what is known of them all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from anabranch.bandit.snapshot import Route
from anabranch.router.backends import KEPT_BACK, Backends, LocalBackend, RemoteBackend
from anabranch.router.classes import PRIORITY
from anabranch.router.infer import TARGET_VARIANT
from anabranch.router.models import Variant
from anabranch.router.queries import Plan
from anabranch.variants.remote import RemoteVariant
from anabranch.wire.grpc_framing import Headers, encode_metadata

_TIMEOUT: Final = b"grpc-timeout"
_AUTHORIZATION: Final = b"authorization"
_RESERVED: Final = frozenset({b"te", b"content-type", b"connection", b"transfer-encoding", b"content-length"})
_OURS: Final = frozenset({TARGET_VARIANT.encode(), PRIORITY.encode()})
_KEPT_BACK: Final = frozenset(name.encode() for name in KEPT_BACK)

FieldRule = tuple[bytes, bytes, int]
"""Of a field: its name, the value that was seen, and its `Kind`."""


class Kind(IntEnum):
    """What becomes of a field of a request, as native/express.c numbers it."""

    DROPPED = 0
    PASSED = 1
    UNIT = 2
    TIMEOUT = 3
    REQUIRED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What requests of one kind have in common.

    Attributes:
        rows: Of each.
        targets: By arm, what answers; None where nobody is asked.
        checked: The variant that looks into the inputs of each, where one does.
        names_classes: An assignment id tells the class that was answered, as feedback may ask for it.
    """

    plan: Plan
    route: Route
    rows: int
    targets: tuple[RemoteVariant | LocalBackend | None, ...]
    checked: Variant | None
    names_classes: bool


class Arm(NamedTuple):
    """One arm of a pattern.

    Attributes:
        variant: Its name.
        target: What answers; None where nobody is asked.
        fixed: The fields that all requests to a remote variant have.
        rename: What follows their messages.
        weight: Its share.
    """

    variant: str
    target: RemoteVariant | LocalBackend | None
    fixed: Headers
    rename: bytes
    weight: float


def fields_of(headers: Headers, route: Route, *, is_guarded: bool) -> tuple[FieldRule, ...] | None:
    """What becomes of each field; None where there is one that has to be looked at each time.

    Args:
        headers: Of a request.
        route: Names the unit.
        is_guarded: Callers prove who they are; one that shows a token does it by a field.
    """
    names = [name for name, _ in headers]
    unit = None if route.unit_metadata is None or not route.experiment_id else route.unit_metadata.encode()
    if len(set(names)) < len(names) or not _OURS.isdisjoint(names):
        return None
    if unit is not None and (unit not in names or unit in _KEPT_BACK or _is_own(unit)):
        return None
    found: list[FieldRule] = []
    for name, value in headers:
        if name == _TIMEOUT:
            kind = Kind.TIMEOUT
        elif _is_own(name):
            kind = Kind.DROPPED
        elif name in _KEPT_BACK:
            kind = Kind.REQUIRED if is_guarded and name == _AUTHORIZATION else Kind.DROPPED
        elif not _goes_on(name):
            return None
        else:
            kind = Kind.UNIT if name == unit else Kind.PASSED
        found.append((name, value, int(kind)))
    return tuple(found)


def told_apart(fields: tuple[FieldRule, ...]) -> tuple[tuple[bytes, int, bytes], ...]:
    """What of the fields tells kinds of requests apart: values only where they must be the same."""
    return tuple((name, kind, value if kind == Kind.REQUIRED else b"") for name, value, kind in fields)


def _is_own(name: bytes) -> bool:
    """Whether a field is HTTP/2's or gRPC's own, and so no metadata."""
    return name.startswith((b":", b"grpc-")) or name in _RESERVED


def _goes_on(name: bytes) -> bool:
    """Whether a field's value goes on to a variant's server as it came."""
    try:
        encode_metadata([(name.decode("latin-1"), "")])
    except ValueError:
        # Binary, or of a name that no client of gRPC may give.
        return False
    return True


def arms_of(backends: Backends, route: Route) -> list[Arm] | None:
    """Who answers which share; None where an arm that gets requests generates, or cannot be sent to."""
    found: list[Arm] = []
    names = route.arms if route.experiment_id else route.arms[:1]
    weights = route.layout.weights if route.experiment_id else (1.0,)
    for name, weight in zip(names, weights, strict=True):
        backend = backends.get((route.model, name))
        if isinstance(backend, LocalBackend):
            found.append(Arm(name, backend, (), b"", weight))
        elif isinstance(backend, RemoteBackend) and (sent := backend.variant.express()) is not None:
            found.append(Arm(name, backend.variant, *sent, weight))
        elif weight > 0.0:
            return None
        else:
            found.append(Arm(name, None, (), b"", weight))
    return found
