from collections.abc import Callable
from typing import Any

import pytest

from anabranch.cli.top.looker import Looker
from anabranch.cli.view_types import ArmState, ArmView, ExperimentView
from anabranch.store.sql import SqlStore

Begin = Callable[..., None]
Shell = Any


@pytest.fixture
def store(shell: Shell, live: Begin) -> Any:
    """A store in which the tiny experiment waits for a person, with two live candidates or one."""
    live(ticks=60)
    opened: SqlStore = shell.store()
    yield opened
    opened.close()


@pytest.fixture
def looker(store: SqlStore) -> Looker:
    times = iter(range(61, 1_000_000))
    return Looker(store=store, now=lambda: float(next(times)), actor="ada")


@pytest.fixture
def a_view() -> Callable[..., ExperimentView]:
    """A view of one arm, with these requests, at this time."""
    return one_arm


def one_arm(*, at_s: float, requests: int) -> ExperimentView:
    arm = ArmView(
        name="a",
        role="baseline",
        state=ArmState.BASELINE,
        weight=1.0,
        requests=requests,
        units=requests,
        share_observed=1.0,
        requests_per_s=None,
        p50_ms=None,
        p95_ms=None,
        p99_ms=None,
        quantiles=(),
        best_probability=None,
        error_rate=None,
        masked=0,
        mirrored_pairs=0,
        mirrored_failed=0,
        agreement=None,
        verdicts=(),
        removed_s=None,
        removed_reason="",
    )
    return ExperimentView(
        name="e",
        model="m",
        baseline="a",
        phase="Progressing",
        is_over=False,
        spec_version=1,
        unit=None,
        objective=None,
        delta=0.05,
        rollback_delta=0.01,
        at_s=at_s,
        applied_s=0.0,
        age_s=at_s,
        elapsed_s=at_s,
        step=1,
        steps=(),
        mirror=0.0,
        winner=None,
        arms=(arm,),
        waiting_for=(),
        requests=(),
        decisions=(),
        decisions_total=0,
    )
