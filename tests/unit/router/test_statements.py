"""How often a controller's round asks the database: as often for ten experiments as for one, where nothing is new."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.evidence import Cell
from anabranch.router.controller import Controller
from anabranch.router.leadership import Candidate, Following, Leadership
from anabranch.store.sql import SqlStore, open_store
from anabranch.variants.manifest import Manifest

Describe = Callable[..., Manifest]


def document(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": f"exp-{number}"},
        "spec": {
            "model": f"m{number}",
            "baseline": "base",
            "candidates": ["a"],
            "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.2}],
            "steps": [{"setWeight": 40}, {"pause": {}}],
        },
    }


class Counted:
    """A store of a number of experiments, and how often it was asked."""

    def __init__(self, url: str, folder: Path, describe: Describe) -> None:
        self.url = url
        self.folder = folder
        self.describe = describe
        self.store: SqlStore = open_store(url)
        self.statements = 0
        self.store.watch(self.heard)
        self.ids: list[int] = []

    def heard(self, _seconds: float, _failed: bool) -> None:
        self.statements += 1

    def add(self, experiments: int) -> None:
        for number in range(len(self.ids), experiments):
            self.ids.append(self.store.apply(document(number), "ada", 1.0).id)

    def controller(self, leadership: Leadership) -> Controller:
        models = [f"m{number}" for number in range(len(self.ids))]
        return Controller(
            self.store,
            self.folder,
            manifests={model: {name: self.describe(name) for name in ("base", "a")} for model in models},
            baselines=dict.fromkeys(models, "base"),
            wall_clock=lambda: 1_000.0,
            publish=lambda _: None,
            leadership=leadership,
        )

    def leading(self) -> Controller:
        made = self.controller(Candidate(self.store.replicas, "ann#1", 60.0))
        for _ in range(4):
            made.run_once()
        return made

    def count(self, controller: Controller) -> int:
        self.statements = 0
        controller.run_once()
        return self.statements

    def add_outcomes(self, experiments: int) -> None:
        with self.store.ingestion() as ingestion:
            for identifier in self.ids[:experiments]:
                ingestion.add_delta(identifier, [Cell(epoch=1, variant="a", units=5, requests=5)], [])


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def counted(request: pytest.FixtureRequest, tmp_path: Path, describe: Describe) -> Iterator[Counted]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'store.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    made = Counted(url, tmp_path, describe)
    yield made
    made.store.close()


def test_a_round_without_news_asks_as_often_for_ten_experiments_as_for_one(counted: Counted) -> None:
    seen = []
    for experiments in (1, 10):
        counted.add(experiments)
        leader, follower = counted.leading(), counted.controller(Following())
        follower.run_once()
        seen.append((counted.count(leader), counted.count(follower)))
    assert seen[0] == seen[1]
    # BEGIN counts on SQLite.
    assert seen[0][0] <= 10
    assert seen[0][1] <= 5


def test_a_round_asks_for_each_experiment_that_has_news_alone(counted: Counted) -> None:
    counted.add(10)
    leader = counted.leading()
    idle = counted.count(leader)
    seen = []
    for experiments in (1, 2, 3):
        counted.add_outcomes(experiments)
        seen.append(counted.count(leader))
    assert seen[2] - seen[1] == seen[1] - seen[0]
    assert seen[1] - seen[0] <= 12
    assert counted.count(leader) == idle
