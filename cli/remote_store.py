"""A server's control port as a control plane: the verbs read and ask as they do of a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.client import errors, values
from anabranch.client.sync import Client
from anabranch.store import codec
from anabranch.store.ledger_port import StoredEvidence, StoredSpec, Tenure
from anabranch.store.port import AuditEvent, Conflict, NotFound, StoredDecision, StoredExperiment

_CODES: Final[dict[type[errors.CallFailed], tuple[ExitCode, str]]] = {
    errors.Invalid: (ExitCode.BAD_INPUT, ""),
    errors.Refused: (ExitCode.REFUSED, ""),
    errors.NotKnown: (
        ExitCode.NOT_ALLOWED,
        "log in with `anabranch login HOST:PORT`, or set ANABRANCH_TOKEN or ANABRANCH_TOKEN_FILE",
    ),
    errors.NotAllowed: (ExitCode.NOT_ALLOWED, "`anabranch whoami` says what you may do"),
    errors.Overloaded: (ExitCode.FAILURE, "try again in a moment"),
    errors.Unavailable: (ExitCode.FAILURE, ""),
    errors.TookTooLong: (ExitCode.FAILURE, "try again in a moment"),
}


class RemoteLedger:
    """`store.control_plane.Ledger` over a server.

    Args:
        client: Asks it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def specs(self, name: str) -> list[StoredSpec]:
        """See `store.control_plane.Ledger.specs`."""
        with translated():
            return [
                StoredSpec(
                    version=each.version, document=each.document, applied_s=each.applied_s, actor=each.actor
                )
                for each in self._client.specs(name)
            ]

    def evidence(self, name: str) -> list[StoredEvidence]:
        """See `store.control_plane.Ledger.evidence`."""
        with translated():
            return [
                StoredEvidence(
                    spec_version=each.spec_version,
                    last=json.loads(each.body_json)["last"],
                    body=each.body_json,
                )
                for each in self._client.evidence(name, all_versions=True)
            ]

    def tenures(self, model: str) -> list[Tenure]:
        """See `store.control_plane.Ledger.tenures`."""
        with translated():
            return [
                Tenure(
                    model=each.model,
                    since_s=each.since_s,
                    variant=each.variant,
                    experiment=each.experiment,
                    decision=each.decision,
                    reason=each.reason,
                )
                for each in self._client.tenures(model)
            ]


class RemoteStore:
    """`store.control_plane.ControlPlane` over a server.

    Args:
        client: Asks it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.ledger = RemoteLedger(client)

    def experiments(self) -> list[StoredExperiment]:
        """See `store.control_plane.ReadPlane.experiments`."""
        with translated():
            return [_stored(each) for each in self._client.experiments(with_state=True)]

    def experiment(self, name: str) -> StoredExperiment:
        """See `store.control_plane.ReadPlane.experiment`."""
        with translated():
            return _stored(self._client.get(name, with_state=True))

    def decisions(self, name: str) -> list[StoredDecision]:
        """See `store.control_plane.ReadPlane.decisions`."""
        with translated():
            return [
                StoredDecision(
                    spec_version=each.spec_version,
                    decision=codec.decision_from(each.body_json),
                    previous_hash=each.previous_hash,
                    hash=each.hash,
                    seal=each.seal,
                )
                for each in self._client.decisions(name)
            ]

    def evidence_log(self, name: str) -> list[Evidence]:
        """See `store.control_plane.ReadPlane.evidence_log`."""
        with translated():
            return [codec.evidence_from(each.body_json) for each in self._client.evidence(name)]

    def request(self, name: str, verb: Verb, argument: str, actor: str, now: float) -> Command:  # noqa: ARG002  # the server knows who asks, and when
        """See `store.control_plane.ControlPlane.request`."""
        asks: dict[Verb, Callable[[], values.Request]] = {
            Verb.PROMOTE: lambda: self._client.promote(name, argument),
            Verb.PROMOTE_FULL: lambda: self._client.promote(name, argument, full=True),
            Verb.PAUSE: lambda: self._client.pause(name),
            Verb.RESUME: lambda: self._client.resume(name),
            Verb.ABORT: lambda: self._client.abort(name),
            Verb.RETRY: lambda: self._client.retry(name),
            Verb.UNDO: lambda: self._client.undo(name),
            Verb.APPROVE: lambda: self._client.approve(name, argument),
        }
        if verb not in asks:
            raise CommandFailed(ExitCode.BAD_INPUT, f"{verb} cannot be asked of a server")
        with translated():
            return _command(asks[verb]())

    def pending(self, name: str) -> tuple[Command, ...]:
        """See `store.control_plane.ReadPlane.pending`."""
        with translated():
            return tuple(map(_command, self._client.get(name).pending))

    def events(self, name: str | None = None) -> list[AuditEvent]:
        """See `store.control_plane.ReadPlane.events`."""
        with translated():
            return [
                AuditEvent(
                    id=each.id,
                    at_s=each.at_s,
                    actor=each.actor,
                    experiment=each.experiment,
                    verb=each.verb,
                    detail=each.detail,
                )
                for each in self._client.events(name or "")
            ]

    def close(self) -> None:
        """Hang up."""
        self._client.close()


@contextmanager
def translated() -> Iterator[None]:
    """The client's errors as the store's, and the rest as failures of the command."""
    try:
        yield
    except errors.NotFound as error:
        raise NotFound(str(error)) from None
    except errors.Conflict as error:
        raise Conflict(str(error)) from None
    except errors.CallFailed as error:
        code, advice = _CODES.get(type(error), (ExitCode.FAILURE, ""))
        raise CommandFailed(code, str(error), advice) from None


def _stored(seen: values.Experiment) -> StoredExperiment:
    return StoredExperiment(
        id=seen.id,
        name=seen.name,
        document=seen.document,
        spec_version=seen.spec_version,
        # The server keeps it to itself: it would tell whose requests go where.
        salt=b"",
        applied_s=seen.applied_s,
        first_delta=seen.first_delta,
        first_epoch=seen.first_epoch,
        state_version=seen.state_version,
        state=codec.state_from(seen.state_json),
    )


def _command(asked: values.Request) -> Command:
    return Command(id=asked.id, verb=Verb(asked.verb), actor=asked.actor, argument=asked.argument)
