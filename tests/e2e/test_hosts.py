"""Several hosts: three routers, two controllers and PostgreSQL, with cables that are pulled and hosts that are lost."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anabranch.bandit.decision import Verb

Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
Cluster = Any
Traffic = Any

pytestmark = [pytest.mark.postgres, pytest.mark.namespaces, pytest.mark.timeout(600)]
ROUTERS = ("one", "two", "three")
DATA = Path(__file__).parents[1] / "data"
UNITS = 40
# Two of its pauses are ended by a person, which a leading controller has to answer; the weights are others afterwards.
HELD = [{"setWeight": 50}, {"pause": {}}, {"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}]
CUT_S = 6.0
_log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def cluster(
    load_module: Callable[[Path], ModuleType],
    models: Path,
    digits: Any,
    clients: ModuleType,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    cluster_module = load_module(Path(__file__).with_name("hosts_cluster.py"))
    postgres = load_module(DATA / "postgres_server.py")
    conftest = load_module(Path(__file__).with_name("conftest.py"))
    network = load_module(DATA / "network.py").Network(cluster_module.HOSTS)
    # What it has confirmed stays, when its host is lost.
    options = {"listen_addresses": "*", "synchronous_commit": "on"}
    database = postgres.PostgresServer(
        postgres.find_programs(), options, prefix=network.hosts["data"].plain_prefix
    )

    def served(folder: Path, state: Path, **more: Any) -> Any:
        return conftest.Served(folder, state, digits, clients, **more)

    made = cluster_module.Cluster(network, database, served, tmp_path_factory.mktemp("hosts"), models)
    yield made
    made.close()
    database.close()
    network.close()


@pytest.fixture
def held(cluster: Cluster, experiment: Make) -> Iterator[str]:
    """An experiment that splits the traffic of every router; answers its name."""
    name = cluster.apply(experiment("held", ["plain"], HELD, unit={"metadata": "x-user-id"}))
    yield name
    cluster.ask(name, Verb.ABORT)
    assert cluster.verifies(name)


@pytest.fixture
def traffic(cluster: Cluster, held: str, wait_until: Wait) -> Iterator[Traffic]:
    """Requests to all routers, which split them alike."""
    with cluster.traffic() as running:
        wait_until(lambda: splits_alike(running, *ROUTERS), "the split is in force, and the same everywhere")
        yield running


def splits_alike(traffic: Traffic, *routers: str, since: int = 0) -> bool:
    """Whether every unit gets one variant from all of these routers, and both variants are given."""
    first, *others = [traffic.split(router, since) for router in routers]
    return (
        len(first) == UNITS
        and set(first.values()) == {"wide", "plain"}
        and all(other == first for other in others)
    )


def assert_nothing_is_lost_or_counted_twice(
    cluster: Cluster, held: str, traffic: Traffic, wait_until: Wait
) -> None:
    traffic.stop()
    wait_until(lambda: cluster.counted(held) == cluster.recorded(held), "everything is counted")
    codes = Counter(reply["code"] for reply in traffic.replies)
    _log.info("%d counted; answers: %s", cluster.counted(held), dict(codes))
    assert cluster.answered_but_not_recorded_once(traffic) == []


def wait_for(seconds: float, wait_until: Wait) -> None:
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "time passes")


def test_routers_give_a_user_one_variant_also_where_the_database_is_far(
    cluster: Cluster, held: str, traffic: Traffic, wait_until: Wait
) -> None:
    cluster.hosts["two"].slow_down("back", 40.0)
    before = traffic.split("two")
    cluster.ask(held, Verb.RESUME)
    wait_until(
        lambda: before != traffic.split("two") and splits_alike(traffic, *ROUTERS),
        "the next weights are in force, and the same everywhere",
    )
    assert traffic.failures(*ROUTERS) == []
    assert_nothing_is_lost_or_counted_twice(cluster, held, traffic, wait_until)


def test_a_router_that_is_cut_off_from_the_database_goes_on_by_its_last_snapshot(
    cluster: Cluster, held: str, traffic: Traffic, wait_until: Wait
) -> None:
    before = traffic.split("one")
    cluster.hosts["one"].pull("back")
    cluster.ask(held, Verb.RESUME)
    wait_until(
        lambda: before != traffic.split("two") and splits_alike(traffic, "two", "three"),
        "the others have the next weights",
    )
    since = len(traffic.replies)
    wait_for(CUT_S, wait_until)
    assert traffic.split("one", since) == before
    cluster.hosts["one"].plug("back")
    wait_until(lambda: splits_alike(traffic, *ROUTERS), "it has the next weights too")
    assert traffic.failures(*ROUTERS) == []
    assert_nothing_is_lost_or_counted_twice(cluster, held, traffic, wait_until)


def test_a_leader_that_is_cut_off_from_the_database_is_followed_and_does_not_come_back(
    cluster: Cluster, held: str, traffic: Traffic, wait_until: Wait
) -> None:
    wait_until(cluster.leader, "one of them leads")
    first = cluster.leader()
    cut_s = time.monotonic()
    cluster.hosts[first].pull()
    wait_until(lambda: cluster.leader() not in ("", first), "the other one leads")
    _log.info("followed after %.1f s", time.monotonic() - cut_s)
    second = cluster.leader()
    cluster.ask(held, Verb.RESUME)
    cluster.hosts[first].plug()
    wait_until(lambda: "leads no longer" in cluster.log(first), "the first one sees it")
    cluster.ask(held, Verb.RESUME)
    assert cluster.leader() == second
    assert traffic.failures(*ROUTERS) == []
    assert_nothing_is_lost_or_counted_twice(cluster, held, traffic, wait_until)


def test_routers_ride_out_a_database_that_is_cut_off_from_everything(
    cluster: Cluster, held: str, traffic: Traffic, wait_until: Wait
) -> None:
    before = traffic.split("one")
    cluster.hosts["data"].pull()
    since = len(traffic.replies)
    wait_for(CUT_S, wait_until)
    assert all(traffic.split(router, since) == before for router in ROUTERS)
    cluster.hosts["data"].plug()
    cluster.ask(held, Verb.RESUME)
    wait_until(
        lambda: before != traffic.split("one") and splits_alike(traffic, *ROUTERS),
        "the next weights are in force",
    )
    assert traffic.failures(*ROUTERS) == []
    assert_nothing_is_lost_or_counted_twice(cluster, held, traffic, wait_until)


def test_hosts_that_are_lost_cost_their_own_requests_in_flight_and_nothing_that_was_answered(
    cluster: Cluster, held: str, traffic: Traffic, wait_until: Wait
) -> None:
    """A router's host and the leader's, at once: they come back with what is on their disks."""
    wait_until(cluster.leader, "one of them leads")
    first = cluster.leader()
    lost_s = time.monotonic()
    for name in ("three", first):
        cluster.hosts[name].lose()
    since = len(traffic.replies)
    wait_until(lambda: cluster.leader() not in ("", first), "the other controller leads")
    _log.info("followed after %.1f s", time.monotonic() - lost_s)
    cluster.ask(held, Verb.RESUME)
    wait_until(lambda: len(traffic.of("one", since)) > UNITS, "the others go on")
    for name in ("three", first):
        cluster.hosts[name].plug()
    cluster.start_controller(first)
    cluster.start_router("three")
    wait_until(
        lambda: splits_alike(traffic, *ROUTERS, since=since), "it serves again, and splits as the others do"
    )
    assert traffic.failures("one", "two") == []
    assert {reply["code"] for reply in traffic.failures("three")} <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert_nothing_is_lost_or_counted_twice(cluster, held, traffic, wait_until)


def test_a_lost_database_host_comes_back_with_everything_that_it_had_confirmed(
    cluster: Cluster, held: str, traffic: Traffic, wait_until: Wait
) -> None:
    cluster.ask(held, Verb.RESUME)
    before = cluster.routers["one"].experiment(held).state.decisions
    cluster.hosts["data"].lose()
    since = len(traffic.replies)
    wait_for(CUT_S, wait_until)
    assert all(traffic.split(router, since) for router in ROUTERS)
    cluster.hosts["data"].plug()
    cluster.database.start()
    assert cluster.routers["one"].experiment(held).state.decisions >= before
    cluster.ask(held, Verb.RESUME)
    wait_until(lambda: splits_alike(traffic, *ROUTERS), "the split is the same everywhere")
    assert traffic.failures(*ROUTERS) == []
    assert_nothing_is_lost_or_counted_twice(cluster, held, traffic, wait_until)
