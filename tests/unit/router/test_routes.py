from collections.abc import Callable
from typing import Any

import pytest

from anabranch.bandit.snapshot import Snapshot
from anabranch.router.routes import Routes

Bench = Any


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def routes(clock: Clock) -> Routes:
    return Routes({"m": "base", "n": "other"}, loop_time=clock, max_age_s=60.0)


@pytest.fixture
def snapshot(bench: Bench) -> Callable[..., Snapshot]:
    def make(version: int, *weights: float) -> Snapshot:
        return Snapshot(version=version, published_s=0.0, routes={"m": bench.route(*weights)})

    return make


def test_before_the_first_snapshot_the_baselines_serve(routes: Routes) -> None:
    assert routes.version == 0
    assert routes.route("m").arms == ("base",)
    assert routes.route("m").layout.weights == (1.0,)
    assert routes.active() == {}


def test_a_snapshot_is_used_whole_and_leaves_other_models_alone(
    routes: Routes, snapshot: Callable[..., Snapshot]
) -> None:
    routes.publish(snapshot(5, 0.2, 0.1))
    assert routes.version == 5
    assert routes.route("m").experiment == "exp"
    assert routes.route("n").arms == ("other",)
    assert set(routes.active()) == {3}


def test_an_older_snapshot_is_ignored_but_is_a_sign_of_life(
    routes: Routes, snapshot: Callable[..., Snapshot], clock: Clock
) -> None:
    routes.publish(snapshot(5, 0.2, 0.1))
    clock.now += 50.0
    routes.publish(snapshot(4, 0.9, 0.1))
    clock.now += 50.0
    assert routes.version == 5
    assert routes.route("m").layout.weights[1] == 0.2


def test_without_news_the_baseline_serves_until_there_is_news(
    routes: Routes, snapshot: Callable[..., Snapshot], clock: Clock
) -> None:
    routes.publish(snapshot(5, 0.2, 0.1))
    clock.now += 60.0
    assert routes.route("m").experiment == "exp"
    clock.now += 0.5
    assert routes.is_stale
    assert routes.route("m").experiment == ""
    assert routes.route("m").arms == ("base",)
    routes.heard()
    assert routes.route("m").experiment == "exp"


def test_stale_routes_keep_the_baseline_that_was_promoted_last(routes: Routes, clock: Clock) -> None:
    promoted = Routes({"m": "better"}, loop_time=clock).route("m")
    routes.publish(Snapshot(version=1, published_s=0.0, routes={"m": promoted}))
    clock.now += 100.0
    assert routes.route("m").baseline == "better"
