"""Recompute an experiment's decisions from the evidence that was kept, and check that the log was not changed.

What every tick folded in is kept, and what was asked. Taking every tick again, in order, through the same pure code must
give every decision again, with its weights and its verdicts' evidence; and the decisions must form an unbroken chain of
hashes over what they rest on. Whoever changes a count, a document, a decision or leaves out a row is found, and the
decision at which it shows is named.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from anabranch.bandit.certificate import Certificate, certify
from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.replaying import Replay
from anabranch.store.chain import GENESIS, link, seal_of
from anabranch.store.codec import decision_text
from anabranch.store.control_plane import ReadPlane
from anabranch.store.document import parse
from anabranch.store.port import NotFound, StoredDecision, StoredExperiment

_UNREADABLE = (
    "evidence is kept that cannot be read: it was damaged or changed, and no decision was computed again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One decision after the check.

    Attributes:
        is_recomputed: Whether its verdicts were computed again; of an earlier spec version only the chain is
            checked.
        problems: What does not match, each in a sentence; empty when everything does.
    """

    spec_version: int
    number: int
    is_recomputed: bool
    problems: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the check of a whole experiment found.

    Attributes:
        head: Hash of the last decision, empty without one.
        verdicts: How many verdicts were computed again and compared.
        problems: What belongs to no single decision, such as evidence that is missing at the end.
    """

    experiment: str
    decisions: tuple[Checked, ...]
    head: str = ""
    verdicts: int = 0
    problems: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        """Whether every decision follows from the evidence and the chain is unbroken."""
        return not self.problems and all(checked.matches for checked in self.decisions)

    def only(self, checked: Checked) -> Verification:
        """What was found of one decision."""
        return replace(self, decisions=(checked,), problems=())

    @property
    def first_mismatch(self) -> Checked | None:
        """The earliest decision that does not match."""
        return next((checked for checked in self.decisions if not checked.matches), None)


def verify(store: ReadPlane, name: str) -> Verification:
    """Take every decision since the document was applied again, and check the chain of all there are.

    Where evidence cannot even be read, the chain alone is checked, which names the decision that rests on it.

    Raises:
        NotFound: If there is no such experiment.
    """
    try:
        kept, decisions, log = _between_ticks(store, name)
    except ValueError:
        return replace(verify_chain(store, name), problems=(_UNREADABLE,))
    first = first_of_document(decisions, kept)
    replay = Replay(
        parse(_applied(store, name, decisions[first:], kept)),
        log,
        commands_of(store, name),
        first_delta=kept.first_delta,
        first_epoch=kept.first_epoch,
    )
    seals = _Seals(store, name)
    checked: list[Checked] = []
    previous = GENESIS
    for index, row in enumerate(decisions):
        problems = _chain_problems(row, previous, seals.next(row))
        previous = row.hash
        is_current = index >= first
        if is_current:
            expected = index - first + 1
            if row.decision.number != expected:
                problems.append(
                    f"it is number {row.decision.number}, decision {expected} is missing before it"
                )
            problems += replay.check(row.decision)
        checked.append(
            Checked(
                spec_version=row.spec_version,
                number=row.decision.number,
                is_recomputed=is_current,
                problems=tuple(problems),
            )
        )
    own = len(decisions) - first
    if own == kept.state.decisions:
        ends = replay.finish(kept.state)
    else:
        ends = [f"the state counts {kept.state.decisions} decisions, {own} are kept"]
    return Verification(
        experiment=name,
        decisions=tuple(checked),
        head=decisions[-1].hash if decisions else "",
        verdicts=replay.compared,
        problems=tuple(ends),
    )


def verify_chain(store: ReadPlane, name: str) -> Verification:
    """Check hashes only: that no decision, document or evidence of any spec version was changed.

    Raises:
        NotFound: If there is no such experiment.
    """
    decisions = store.decisions(name)
    # Read after them: what was folded in since then is sealed by a later one.
    seals = _Seals(store, name)
    checked: list[Checked] = []
    previous = GENESIS
    for row in decisions:
        problems = _chain_problems(row, previous, seals.next(row))
        previous = row.hash
        checked.append(
            Checked(
                spec_version=row.spec_version,
                number=row.decision.number,
                is_recomputed=False,
                problems=tuple(problems),
            )
        )
    return Verification(experiment=name, decisions=tuple(checked), head=previous if decisions else "")


def certificate_of(store: ReadPlane, name: str, number: int | None = None) -> Certificate:
    """The certificate of a decision since the document was applied, by default of the last one.

    Raises:
        NotFound: If there is no such experiment or decision.
    """
    kept, decisions, log = _between_ticks(store, name)
    own = decisions[first_of_document(decisions, kept) :]
    try:
        return certify(
            parse(_applied(store, name, own, kept)),
            [row.decision for row in own],
            log,
            number=kept.state.decisions if number is None else number,
            commands=commands_of(store, name),
            first_delta=kept.first_delta,
            first_epoch=kept.first_epoch,
        )
    except ValueError as error:
        raise NotFound(str(error)) from error


def commands_of(store: ReadPlane, name: str) -> list[Command]:
    """Everything that was ever asked of an experiment, with the documents that were to be taken."""
    known = {verb.value for verb in Verb}
    return [
        Command(
            id=event.id,
            verb=Verb(event.verb),
            actor=event.actor,
            argument=event.detail,
            revision=parse(json.loads(event.detail)) if event.verb == Verb.REVISE else None,
        )
        for event in store.events(name)
        if event.verb in known
    ]


class _Seals:
    """What each decision rests on by the rows that are kept, in the decisions' order."""

    def __init__(self, store: ReadPlane, name: str) -> None:
        self._documents = {
            spec.version: json.dumps(spec.document, sort_keys=True) for spec in store.ledger.specs(name)
        }
        self._evidence = deque(store.ledger.evidence(name))

    def next(self, row: StoredDecision) -> str:
        """The seal that a decision should have."""
        folded = []
        while self._evidence and self._evidence[0].last <= row.decision.evidence_last:
            folded.append(self._evidence.popleft().body)
        return seal_of(self._documents.get(row.spec_version, ""), folded)


def first_of_document(decisions: Sequence[StoredDecision], kept: StoredExperiment) -> int:
    """Where the decisions since the last `apply` begin: they count from 1, over documents taken on the way."""
    if not kept.state.decisions:
        return len(decisions)
    return max((index for index, row in enumerate(decisions) if row.decision.number == 1), default=0)


def _applied(
    store: ReadPlane, name: str, own: Sequence[StoredDecision], kept: StoredExperiment
) -> Mapping[str, Any]:
    """The document as it was applied, before any that was taken while the experiment went on."""
    if not own:
        return kept.document
    version = own[0].spec_version
    found = next((spec for spec in store.ledger.specs(name) if spec.version == version), None)
    return kept.document if found is None else found.document


def _between_ticks(
    store: ReadPlane, name: str
) -> tuple[StoredExperiment, list[StoredDecision], list[Evidence]]:
    """An experiment, its decisions and its evidence as they are at one moment.

    They are read one after the other: when a tick was saved meanwhile, they are read again.
    """
    kept = store.experiment(name)
    while True:
        decisions, log = store.decisions(name), store.evidence_log(name)
        again = store.experiment(name)
        if again.state_version == kept.state_version:
            return kept, decisions, log
        kept = again


def _chain_problems(row: StoredDecision, previous: str, seal: str) -> list[str]:
    problems = []
    if row.previous_hash != previous:
        problems.append(
            "its previous hash is not the hash of the decision before it: one was changed or removed"
        )
    if row.hash != link(row.previous_hash, decision_text(row.decision), row.seal):
        problems.append("its hash is not the hash of its body: the body was changed")
    if row.seal and row.seal != seal:
        problems.append(
            "its seal is not that of its document and evidence: one of them was changed or removed"
        )
    return problems
