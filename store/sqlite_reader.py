"""A SQLite store for those who only look: by the standard library, without SQLAlchemy, and never writing.

`store.sql` takes a second of a processor's time to load; a list of experiments should take a few hundredths. What is read
is the same: the control plane's contract suite runs on both, and a file that is not as this release writes it is refused
here and left to `store.sql`, which says why.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anabranch.bandit.decision import Command, Decision, Verb
from anabranch.store import packing, plain
from anabranch.store.ledger_port import StoredEvidence, StoredSpec, Tenure
from anabranch.store.port import AuditEvent, NotFound, StoredDecision, StoredExperiment
from anabranch.store.versions import known_versions

if TYPE_CHECKING:
    from anabranch.bandit.evidence import Evidence

_PATIENCE_S: Final = 10.0


class NotReadable(Exception):
    """The file is not a store of this release: open it with `store.sql`, which says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What a list of experiments shows of one; its document and state as they were written, not checked again."""

    name: str
    applied_s: float
    document: Mapping[str, Any]
    state: Mapping[str, Any]


class SqliteReader:
    """`store.control_plane.ReadPlane`, and its ledger, over a SQLite file.

    Args:
        path: Of the file.

    Raises:
        NotReadable: If it cannot be opened, or holds no tables of this release.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_S, isolation_level=None
            )
        except sqlite3.Error as error:
            raise NotReadable(str(error)) from error
        self._file.row_factory = sqlite3.Row
        try:
            found = self._file.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.Error as error:
            self._file.close()
            raise NotReadable(str(error)) from error
        if found is None or found["version_num"] != known_versions()[-1]:
            self._file.close()
            raise NotReadable("its tables are of another release")

    @property
    def ledger(self) -> SqliteReader:
        """Documents and evidence of every spec version."""
        return self

    def glances(self) -> list[Glance]:
        """All experiments as a list shows them, by name."""
        rows = self._file.execute("SELECT name, applied_s, document, state FROM experiment ORDER BY name")
        return [
            Glance(
                name=row["name"],
                applied_s=row["applied_s"],
                document=json.loads(row["document"]),
                state=json.loads(row["state"]),
            )
            for row in rows
        ]

    def names(self) -> list[str]:
        """Of all experiments, in order."""
        return [row["name"] for row in self._file.execute("SELECT name FROM experiment ORDER BY name")]

    def experiments(self) -> list[StoredExperiment]:
        """See `store.control_plane.ReadPlane.experiments`."""
        return list(map(_stored, self._file.execute("SELECT * FROM experiment ORDER BY name")))

    def experiment(self, name: str) -> StoredExperiment:
        """See `store.control_plane.ReadPlane.experiment`."""
        return _stored(self._found(name))

    def decisions(self, name: str) -> list[StoredDecision]:
        """See `store.control_plane.ReadPlane.decisions`."""
        rows = self._file.execute(
            "SELECT * FROM decision WHERE experiment_id = ? ORDER BY spec_version, number",
            (self._found(name)["id"],),
        )
        return [
            StoredDecision(
                spec_version=row["spec_version"],
                decision=_decision(row["body"]),
                previous_hash=row["previous_hash"],
                hash=row["hash"],
                seal=row["seal"],
            )
            for row in rows
        ]

    def evidence_log(self, name: str) -> list[Evidence]:
        """See `store.control_plane.ReadPlane.evidence_log`."""
        from anabranch.store import codec

        found = self._found(name)
        rows = self._file.execute(
            "SELECT body, packed FROM evidence WHERE experiment_id = ? AND last > ? ORDER BY last",
            (found["id"], found["first_delta"]),
        )
        return [codec.evidence_from(packing.unpack(row["body"], row["packed"])) for row in rows]

    def specs(self, name: str) -> list[StoredSpec]:
        """See `store.control_plane.Ledger.specs`."""
        rows = self._file.execute(
            "SELECT * FROM spec_version WHERE experiment_id = ? ORDER BY version", (self._found(name)["id"],)
        )
        return [
            StoredSpec(
                version=row["version"],
                document=json.loads(row["document"]),
                applied_s=row["applied_s"],
                actor=row["actor"],
            )
            for row in rows
        ]

    def evidence(self, name: str) -> list[StoredEvidence]:
        """See `store.control_plane.Ledger.evidence`."""
        rows = self._file.execute(
            "SELECT spec_version, last, body, packed FROM evidence WHERE experiment_id = ? ORDER BY last",
            (self._found(name)["id"],),
        )
        return [
            StoredEvidence(
                spec_version=row["spec_version"],
                last=row["last"],
                body=packing.unpack(row["body"], row["packed"]),
            )
            for row in rows
        ]

    def tenures(self, model: str) -> list[Tenure]:
        """See `store.control_plane.Ledger.tenures`."""
        rows = self._file.execute("SELECT * FROM tenure WHERE model = ? ORDER BY id", (model,))
        return [
            Tenure(
                model=row["model"],
                since_s=row["since_s"],
                variant=row["variant"],
                experiment=row["experiment"],
                decision=row["decision"],
                reason=row["reason"],
            )
            for row in rows
        ]

    def pending(self, name: str) -> tuple[Command, ...]:
        """See `store.control_plane.ReadPlane.pending`."""
        rows = self._file.execute("SELECT * FROM event WHERE experiment = ? AND pending ORDER BY id", (name,))
        return tuple(
            Command(id=row["id"], verb=Verb(row["verb"]), actor=row["actor"], argument=row["detail"])
            for row in rows
        )

    def events(self, name: str | None = None) -> list[AuditEvent]:
        """See `store.control_plane.ReadPlane.events`."""
        rows = self._file.execute(
            "SELECT * FROM event WHERE ? IS NULL OR experiment = ? ORDER BY id", (name, name)
        )
        return [
            AuditEvent(
                id=row["id"],
                at_s=row["at_s"],
                actor=row["actor"],
                experiment=row["experiment"],
                verb=row["verb"],
                detail=row["detail"],
            )
            for row in rows
        ]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _found(self, name: str) -> sqlite3.Row:
        row = self._file.execute("SELECT * FROM experiment WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"no experiment {name!r}; there are: {', '.join(self.names()) or 'none'}")
        found: sqlite3.Row = row
        return found


def _decision(text: str) -> Decision:
    try:
        return plain.decision_from(text)
    except (ValueError, KeyError, TypeError):
        # It is damaged: who checks everything says what is wrong with it.
        from anabranch.store import codec

        return codec.decision_from(text)


def _stored(row: sqlite3.Row) -> StoredExperiment:
    # Its state brings NumPy and pydantic: lists and logs go without.
    from anabranch.store import codec

    return StoredExperiment(
        id=row["id"],
        name=row["name"],
        document=json.loads(row["document"]),
        spec_version=row["spec_version"],
        salt=bytes.fromhex(row["salt"]),
        applied_s=row["applied_s"],
        first_delta=row["first_delta"],
        first_epoch=row["first_epoch"],
        state_version=row["state_version"],
        state=codec.state_from(row["state"]),
    )
