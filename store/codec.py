"""The JSON form of the decision core's values, field by field from their types."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from anabranch.bandit.decision import Decision
from anabranch.bandit.evidence import Cell, Evidence, PairCell
from anabranch.bandit.snapshot import Snapshot
from anabranch.bandit.state import ExperimentState

_STATE: TypeAdapter[ExperimentState] = TypeAdapter(ExperimentState)
_DECISION: TypeAdapter[Decision] = TypeAdapter(Decision)
_EVIDENCE: TypeAdapter[Evidence] = TypeAdapter(Evidence)
_SNAPSHOT: TypeAdapter[Snapshot] = TypeAdapter(Snapshot)
_CELLS: TypeAdapter[tuple[Cell, ...]] = TypeAdapter(tuple[Cell, ...])
_PAIRS: TypeAdapter[tuple[PairCell, ...]] = TypeAdapter(tuple[PairCell, ...])


def _text(adapter: TypeAdapter[Any], value: object) -> str:
    # Not dump_json: it writes an infinite number as null, which would not come back.
    return json.dumps(adapter.dump_python(value), separators=(",", ":"))


def state_text(state: ExperimentState) -> str:
    """An experiment's state as JSON."""
    return _text(_STATE, state)


def state_from(text: str) -> ExperimentState:
    """The state in a JSON text."""
    return _STATE.validate_json(text)


def _cell_texts(dumped: Any) -> Any:
    """Cells without the windows that they have not: as they were written before there were any."""
    for cell in dumped:
        if not cell["windows"]:
            del cell["windows"]
    return dumped


def decision_text(decision: Decision) -> str:
    """A decision as JSON; equal decisions give equal texts, so that it can be hashed."""
    # Once there and back: a whole number in a place for a float is written as what it is read as.
    return _text(_DECISION, decision_from(_text(_DECISION, decision)))


def decision_from(text: str) -> Decision:
    """The decision in a JSON text."""
    return _DECISION.validate_json(text)


def evidence_text(evidence: Evidence) -> str:
    """Evidence as JSON; equal evidence gives equal texts, as for decisions."""
    dumped = _EVIDENCE.dump_python(evidence_from(_text(_EVIDENCE, evidence)))
    for kind in ("cells", "pairs"):
        _cell_texts(dumped[kind])
    return json.dumps(dumped, separators=(",", ":"))


def evidence_from(text: str) -> Evidence:
    """The evidence in a JSON text."""
    return _EVIDENCE.validate_json(text)


def cells_text(cells: tuple[Cell, ...]) -> str:
    """Cells as JSON."""
    return json.dumps(_cell_texts(_CELLS.dump_python(cells)), separators=(",", ":"))


def cells_from(text: str) -> tuple[Cell, ...]:
    """The cells in a JSON text."""
    return _CELLS.validate_json(text)


def pairs_text(pairs: tuple[PairCell, ...]) -> str:
    """Pair cells as JSON."""
    return json.dumps(_cell_texts(_PAIRS.dump_python(pairs)), separators=(",", ":"))


def pairs_from(text: str) -> tuple[PairCell, ...]:
    """The pair cells in a JSON text."""
    return _PAIRS.validate_json(text)


def snapshot_text(snapshot: Snapshot) -> str:
    """A snapshot as one line of JSON."""
    return _text(_SNAPSHOT, snapshot)


def snapshot_from(text: str | bytes) -> Snapshot:
    """The snapshot in a JSON text."""
    return _SNAPSHOT.validate_json(text)
