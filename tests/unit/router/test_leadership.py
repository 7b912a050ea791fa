"""Controllers that share a store: one leads, whatever happens to it; the others publish what it has saved."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.snapshot import Snapshot
from anabranch.router.controller import Controller
from anabranch.router.leadership import Candidate, Following, Leadership, leadership_of
from anabranch.router.settings import ControllerPlace, Settings
from anabranch.store.memory import MemoryStore

LEASE_S = 10.0
Describe = Callable[..., Any]


def document(name: str = "exp", model: str = "m") -> dict[str, Any]:
    return {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "model": model,
            "baseline": "base",
            "candidates": ["a"],
            "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.2}],
            "steps": [{"setWeight": 40}, {"pause": {"duration": "1h"}}, {"promote": {}}],
        },
    }


class Site:
    """Controllers of several replicas over one store, with one clock."""

    def __init__(self, folder: Path, manifest: Describe) -> None:
        self.now = 1_000.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.journal = folder
        self.manifests = {"m": {name: manifest(name) for name in ("base", "a")}}
        self.published: dict[str, list[Snapshot]] = {}

    def controller(
        self, name: str, store: Any = None, leadership: Leadership | None = None, **changed: Any
    ) -> Controller:
        seen = self.published[name] = []
        return Controller(
            store or self.store,
            self.journal,
            **{
                "manifests": self.manifests,
                "baselines": {"m": "base"},
                "wall_clock": lambda: self.now,
                "publish": seen.append,
                "leadership": leadership or Candidate(self.store.replicas, name, LEASE_S),
                **changed,
            },
        )

    def weight_of_a(self, name: str) -> float:
        route = self.published[name][-1].routes["m"]
        return dict(zip(route.arms, route.layout.weights, strict=True)).get("a", 0.0)


@pytest.fixture
def site(tmp_path: Path, describe: Describe) -> Site:
    return Site(tmp_path, describe)


def test_one_of_two_ticks_and_both_publish_what_it_saved(site: Site) -> None:
    ann, bob = site.controller("ann"), site.controller("bob")
    site.store.apply(document(), "ada", site.now)
    assert len(ann.run_once()) == 1
    assert bob.run_once() == []
    assert site.weight_of_a("ann") == site.weight_of_a("bob") == 0.4
    routes = [site.published[name][-1].routes for name in ("ann", "bob")]
    assert routes[0] == routes[1], "same experiment, epoch, salt and weights everywhere"


def test_when_the_leader_is_gone_the_next_one_goes_on_within_the_lease(site: Site) -> None:
    ann, bob = site.controller("ann"), site.controller("bob")
    ann.run_once()
    site.store.apply(document(), "ada", site.now)
    site.now += LEASE_S - 0.1
    assert bob.run_once() == []
    site.now += 0.1
    assert len(bob.run_once()) == 1


def test_one_that_steps_down_is_followed_at_once(site: Site) -> None:
    ann, bob = site.controller("ann"), site.controller("bob")
    ann.run_once()
    site.store.apply(document(), "ada", site.now)
    ann.step_down()
    assert len(bob.run_once()) == 1


def test_a_leader_that_was_paused_before_its_save_writes_and_publishes_nothing(site: Site) -> None:
    bob = site.controller("bob")

    class Paused:
        """A store in front of which the process sleeps longer than its lease lasts."""

        def __getattr__(self, name: str) -> Any:
            if name == "save":
                site.now += LEASE_S
                site.store.request("exp", Verb.ABORT, "", "ada", site.now)
                assert len(bob.run_once()) == 1
            return getattr(site.store, name)

    site.store.apply(document(), "ada", site.now)
    ann = site.controller("ann", store=Paused())
    assert ann.run_once() == []
    kept = site.store.experiment("exp")
    assert (str(kept.state.phase), kept.state_version) == ("Aborted", 1)
    assert [row.decision.phase for row in site.store.decisions("exp")] == [kept.state.phase]
    assert site.weight_of_a("ann") == 0.0
    site.now += 1.0
    assert ann.run_once() == []


def test_one_that_only_follows_never_leads_and_publishes_nevertheless(site: Site) -> None:
    follower = site.controller("follower", leadership=Following())
    site.store.apply(document(), "ada", site.now)
    assert follower.run_once() == []
    assert site.store.replicas.leader() is None
    site.controller("ann").run_once()
    follower.run_once()
    assert site.weight_of_a("follower") == 0.4


def test_a_replica_without_a_variant_serves_the_baseline_and_says_so_once(
    site: Site, describe: Describe, caplog: pytest.LogCaptureFixture
) -> None:
    site.store.apply(document(), "ada", site.now)
    site.controller("ann").run_once()
    poor = site.controller("poor", manifests={"m": {"base": describe("base")}})
    with caplog.at_level(logging.ERROR):
        poor.run_once()
        poor.run_once()
    assert site.published["poor"][-1].routes["m"].arms == ("base",)
    assert [record.getMessage() for record in caplog.records] == [
        "exp is left out here, its model's baseline serves: no variant of m 'a' is served; served are base"
    ]


def test_the_next_life_on_a_state_folder_leads_at_once(tmp_path: Path) -> None:
    store = MemoryStore(clock=lambda: 1_000.0)
    here = Settings(models=tmp_path, state=tmp_path)
    there = replace(here, state=tmp_path / "there")
    there.state.mkdir()
    first, second = leadership_of(here, store.replicas), leadership_of(here, store.replicas)
    assert first.hold()
    assert not leadership_of(there, store.replicas).hold()
    first_token = first.lease.token if first.lease else 0
    assert second.hold()
    assert second.lease is not None
    assert second.lease.token == first_token + 1


def test_a_server_whose_controller_is_elsewhere_follows(tmp_path: Path) -> None:
    store = MemoryStore()
    settings = Settings(models=tmp_path, state=tmp_path, controller=ControllerPlace.ELSEWHERE)
    assert not leadership_of(settings, store.replicas).hold()
