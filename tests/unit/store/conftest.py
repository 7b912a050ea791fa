"""A controller's work without its clock and its thread: load, tick, save, in one function."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.evidence import Cell, PairCell
from anabranch.bandit.step import Tick, tick
from anabranch.store.document import parse
from anabranch.store.port import Revision, Store

Document = dict[str, Any]
Drive = Callable[..., Tick]


@pytest.fixture(scope="session")
def small_document() -> Document:
    """Two candidates, guardrails of every kind, a latency objective, every kind of step that moves by itself."""
    return {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": "exp"},
        "spec": {
            "model": "m",
            "baseline": "base",
            "candidates": ["a", "b"],
            "metrics": [
                {"name": "latency", "source": "latency_ms", "role": "objective", "statistic": "p50"},
                {"name": "fidelity", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.8},
                {
                    "name": "accuracy",
                    "source": "feedback.correct",
                    "role": "guardrail",
                    "nonInferiorityMargin": 0.1,
                },
                {"name": "errors", "source": "error", "role": "guardrail", "max": 0.2},
            ],
            "steps": [
                {"mirror": {"percent": 50, "until": {"fidelity": "decided"}, "maxDuration": "1m"}},
                {"setWeight": 25},
                {"analysis": {}},
                {"promote": {"steps": [50, 100], "interval": "5s", "bake": "5s"}},
            ],
        },
    }


@pytest.fixture(scope="session")
def drive() -> Drive:
    """Ingests outcomes, ticks once and saves."""

    def once(
        store: Store,
        now: float,
        *,
        cells: Sequence[Cell] = (),
        pairs: Sequence[PairCell] = (),
        name: str = "exp",
    ) -> Tick:
        kept = store.experiment(name)
        if cells or pairs:
            with store.ingestion() as ingestion:
                ingestion.add_delta(kept.id, cells, pairs)
        evidence = replace(store.load_evidence(name, kept.state.cursor), at_s=now)
        asked = tuple(
            replace(command, revision=parse(json.loads(command.argument)))
            if command.verb is Verb.REVISE
            else command
            for command in store.pending(name)
        )
        result = tick(parse(kept.document), kept.state, evidence, asked, now)
        taken = next(
            (command for command in asked if command.revision and command.revision is result.revised), None
        )
        store.save(
            name,
            expected=kept.state_version,
            state=result.state,
            evidence=evidence,
            decision=result.decision,
            revision=Revision(document=json.loads(taken.argument), actor=taken.actor) if taken else None,
        )
        return result

    return once


@pytest.fixture(scope="session")
def outcomes() -> Callable[..., tuple[list[Cell], list[PairCell]]]:
    """One tick's outcomes of the small document: the same for every arm but for what is given."""

    def make(
        epoch: int, shares: Mapping[str, float], *, requests: int = 400, agree: float = 0.95
    ) -> tuple[list[Cell], list[PairCell]]:
        cells = []
        for arm, share in shares.items():
            n = round(requests * share)
            if not n:
                continue
            fast = 900 if arm == "base" else 700
            cells.append(
                Cell(
                    epoch=epoch,
                    variant=arm,
                    units=n,
                    requests=n,
                    metrics={
                        "latency_ms": {fast: n // 2, fast + 20: n - n // 2},
                        "error": {0: n},
                        "feedback.correct": {0: n // 10, 1: n - n // 10},
                    },
                )
            )
        same = round(100 * agree)
        pairs = [
            PairCell(
                epoch=epoch,
                variant=arm,
                pairs=100,
                metrics={
                    "mirror.top1_agreement": {0: 100 - same, 1: same},
                    "feedback.correct": {0: 1, 1: 97, 2: 2},
                },
            )
            for arm in shares
            if arm != "base"
        ]
        return cells, pairs

    return make
