"""Decisions in a database: appended, chained and sealed; never changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select, update

from anabranch.bandit.decision import Decision
from anabranch.store import codec, packing
from anabranch.store.chain import GENESIS, link, seal_of
from anabranch.store.port import StoredDecision
from anabranch.store.tables import DECISION, EVENT, EVIDENCE


def append_decision(connection: Connection, experiment: Any, decision: Decision) -> None:
    """Chain a decision to the one before it; the requests that it answers wait no longer.

    Args:
        connection: An open transaction, in which the tick's evidence is saved already.
        experiment: The experiment's row, with the document under which it was decided.
        decision: What was decided.
    """
    before = connection.execute(
        select(DECISION.c.hash, DECISION.c.body)
        .where(DECISION.c.experiment_id == experiment.id)
        .order_by(DECISION.c.spec_version.desc(), DECISION.c.number.desc())
        .limit(1)
    ).first()
    previous = GENESIS if before is None else before.hash
    sealed_up_to = 0 if before is None else codec.decision_from(before.body).evidence_last
    folded = connection.execute(
        select(EVIDENCE.c.body, EVIDENCE.c.packed)
        .where(EVIDENCE.c.experiment_id == experiment.id, EVIDENCE.c.last > sealed_up_to)
        .order_by("last")
    )
    body = codec.decision_text(decision)
    seal = seal_of(experiment.document, (packing.unpack(*row) for row in folded))
    connection.execute(
        insert(DECISION).values(
            experiment_id=experiment.id,
            spec_version=experiment.spec_version,
            number=decision.number,
            at_s=decision.at_s,
            body=body,
            previous_hash=previous,
            hash=link(previous, body, seal),
            seal=seal,
        )
    )
    if decision.handled:
        connection.execute(update(EVENT).where(EVENT.c.id.in_(decision.handled)).values(pending=False))


def stored_decisions(connection: Connection, experiment: int) -> list[StoredDecision]:
    """Every decision of an experiment, in order."""
    rows = connection.execute(
        select(DECISION).where(DECISION.c.experiment_id == experiment).order_by("spec_version", "number")
    )
    return [
        StoredDecision(
            spec_version=kept.spec_version,
            decision=codec.decision_from(kept.body),
            previous_hash=kept.previous_hash,
            hash=kept.hash,
            seal=kept.seal,
        )
        for kept in rows
    ]
