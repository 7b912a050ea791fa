"""The controller over a real store and a real journal, with the process dying at every place that matters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.snapshot import Snapshot
from anabranch.router.controller import Controller
from anabranch.router.reading import JournalReader
from anabranch.store.ingest import Ingested
from anabranch.store.journal import JournalWriter
from anabranch.store.memory import MemoryStore
from anabranch.store.port import Conflict
from anabranch.store.records import Flag, Routed
from anabranch.store.windows import GRACE_S
from anabranch.variants.manifest import Manifest

NOW = 1_000.0
Describe = Callable[..., Manifest]


def document(name: str = "exp", **fields: Any) -> dict[str, Any]:
    spec = {
        "model": "m",
        "baseline": "base",
        "candidates": ["a"],
        "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.2}],
        "steps": [{"setWeight": 40}, {"pause": {"duration": "1h"}}, {"promote": {}}],
        **fields,
    }
    return {"apiVersion": "anabranch/v1", "kind": "Experiment", "metadata": {"name": name}, "spec": spec}


class Desk:
    """A controller, its store and journal, and what it published; it can die and begin again."""

    def __init__(self, journal: Path, describe: Describe) -> None:
        self.store = MemoryStore()
        self.journal = journal
        self.now = NOW
        self.published: list[Snapshot] = []
        self.manifests = {"m": {name: describe(name) for name in ("base", "a")}}
        self.controller = self.begin()

    def begin(self, publish: Callable[[Snapshot], None] | None = None, store: Any = None) -> Controller:
        self.controller = Controller(
            store or self.store,
            self.journal,
            manifests=self.manifests,
            baselines={"m": "base"},
            wall_clock=lambda: self.now,
            publish=publish or self.published.append,
        )
        return self.controller

    def apply(self, **fields: Any) -> None:
        self.store.apply(document(**fields), "ada", self.now)

    def outcomes(self, lane: int, *, arm: int, epoch: int, status: int = 0, count: int = 200) -> None:
        writer = JournalWriter(self.journal, lane)
        for sequence in range(count):
            writer.append(
                Routed(
                    at_s=self.now,
                    experiment=self.store.experiment("exp").id,
                    epoch=epoch,
                    arm=arm,
                    flags=Flag.EVIDENCE,
                    status=status,
                    latency_ms=1.0,
                    queue_ms=0.0,
                    compute_ms=1.0,
                    batch_rows=1,
                    propensity=0.4,
                    sequence=sequence + 1,
                    unit=bytes(16),
                )
            )
        writer.close()

    @property
    def phase(self) -> str:
        return str(self.store.experiment("exp").state.phase)


@pytest.fixture
def desk(tmp_path: Path, describe: Describe) -> Desk:
    return Desk(tmp_path, describe)


def test_without_experiments_the_baselines_are_published_once(desk: Desk) -> None:
    desk.controller.publish()
    desk.controller.run_once()
    (snapshot,) = desk.published
    assert snapshot.routes["m"].arms == ("base",)


def test_a_tick_is_saved_and_published_as_it_was_saved(desk: Desk) -> None:
    desk.apply()
    (decision,) = desk.controller.run_once()
    kept = desk.store.experiment("exp")
    route = desk.published[-1].routes["m"]
    assert (route.experiment, route.experiment_id, route.epoch) == ("exp", kept.id, kept.state.epoch)
    assert dict(zip(route.arms, route.layout.weights, strict=True)) == dict(kept.state.weights)
    assert dict(decision.weights) == dict(kept.state.weights)
    assert route.salt == kept.salt.hex()


def test_nothing_new_decides_saves_and_publishes_nothing(desk: Desk) -> None:
    desk.apply()
    for _ in range(2):  # The first tick begins, the second has the first verdicts.
        desk.controller.run_once()
    version = desk.store.experiment("exp").state_version
    assert desk.controller.run_once() == []
    assert desk.store.experiment("exp").state_version == version
    assert len(desk.published) == 1


def test_versions_grow_over_restarts_and_when_the_clock_steps_back(desk: Desk) -> None:
    desk.apply()
    desk.controller.run_once()
    desk.now -= 100.0
    desk.store.request("exp", Verb.ABORT, "", "ada", desk.now)
    desk.controller.run_once()
    desk.now = NOW + 1.0
    desk.begin().run_once()
    versions = [snapshot.version for snapshot in desk.published]
    assert versions == sorted(set(versions))
    assert len(versions) == 3


def test_a_death_between_save_and_publish_is_repeated_harmlessly(desk: Desk) -> None:
    class Died(Exception):
        pass

    def die(_snapshot: Snapshot) -> None:
        raise Died

    desk.apply()
    with pytest.raises(Died):
        desk.begin(publish=die).run_once()
    saved = desk.store.experiment("exp")
    assert len(desk.store.decisions("exp")) == 1

    assert desk.begin().run_once() == []
    again = desk.store.experiment("exp").state
    assert (again.decisions, again.epoch, again.weights) == (1, saved.state.epoch, saved.state.weights)
    assert desk.published[-1].routes["m"].epoch == saved.state.epoch


def test_a_publisher_that_fails_once_is_given_the_snapshot_again(desk: Desk) -> None:
    refusals = [OSError("not now")]

    def publish(snapshot: Snapshot) -> None:
        if refusals:
            raise refusals.pop()
        desk.published.append(snapshot)

    desk.apply()
    desk.begin(publish=publish)
    with pytest.raises(OSError, match="not now"):
        desk.controller.run_once()
    desk.controller.run_once()
    assert desk.published[-1].routes["m"].experiment == "exp"


def test_a_death_before_the_save_loses_no_evidence(desk: Desk) -> None:
    class Dying:
        def __getattr__(self, name: str) -> Any:
            if name == "save":
                raise KeyboardInterrupt
            return getattr(desk.store, name)

    desk.apply()
    desk.controller.run_once()
    desk.outcomes(1, arm=1, epoch=1)
    with pytest.raises(KeyboardInterrupt):
        desk.begin(store=Dying()).run_once()
    desk.begin().run_once()
    desk.begin().run_once()
    totals = desk.store.experiment("exp").state.totals
    assert totals["a"].requests == 200


def test_a_conflict_drops_the_tick_and_the_next_one_takes_the_evidence(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.apply()
    desk.controller.run_once()
    desk.outcomes(1, arm=1, epoch=1)
    real, conflicts = desk.store.save, [Conflict("somebody else saved")]

    def save(*arguments: Any, **options: Any) -> int:
        if conflicts:
            raise conflicts.pop()
        return real(*arguments, **options)

    monkeypatch.setattr(desk.store, "save", save)
    assert desk.controller.run_once() == []
    assert desk.store.experiment("exp").state.totals.get("a") is None
    desk.controller.run_once()
    assert desk.store.experiment("exp").state.totals["a"].requests == 200


def test_failures_roll_the_experiment_back_and_the_route_is_the_baselines_again(desk: Desk) -> None:
    desk.apply()
    desk.controller.run_once()
    desk.outcomes(1, arm=1, epoch=1, status=13)
    desk.now += 1.0
    (decision,) = desk.controller.run_once()
    assert desk.phase == "RolledBack"
    assert "errors" in decision.summary
    assert desk.published[-1].routes["m"].experiment == ""
    assert desk.published[-1].routes["m"].arms == ("base",)


def test_a_promoted_variant_serves_without_the_experiment_and_after_a_restart(desk: Desk) -> None:
    desk.apply(steps=[{"setWeight": 40}, {"promote": {}}])
    desk.controller.run_once()
    desk.store.request("exp", Verb.PROMOTE, "a", "ada", desk.now)
    desk.controller.run_once()
    desk.now += 3_600.0
    desk.controller.run_once()
    assert desk.phase == "Promoted"
    assert desk.store.baseline("m") == "a"
    desk.begin().publish()
    assert desk.published[-1].routes["m"].arms == ("a",)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "n"}, "no model 'n' is served; served are m"),
        ({"candidates": ["aa"]}, "no variant of m 'aa' is served, did you mean a? served are a, base"),
        ({"baseline": "bas", "candidates": ["a"]}, "did you mean base?"),
    ],
)
def test_what_is_not_served_is_refused_before_traffic_with_the_reason(
    desk: Desk, fields: dict[str, Any], reason: str
) -> None:
    desk.apply(**fields)
    (decision,) = desk.controller.run_once()
    assert desk.phase == "Aborted"
    assert reason in decision.summary
    assert all(route.experiment == "" for route in desk.published[-1].routes.values())


def test_a_candidate_with_other_tensors_is_refused_with_both(desk: Desk, describe: Describe) -> None:
    desk.manifests["m"]["a"] = describe("a", classes=4)
    desk.apply()
    (decision,) = desk.begin().run_once()
    assert desk.phase == "Aborted"
    assert "a has outputs" in decision.summary
    assert "the baseline base has" in decision.summary


def test_damage_in_the_journal_is_reported_and_the_other_lanes_are_read(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.apply()
    desk.controller.run_once()
    desk.outcomes(1, arm=1, epoch=1, count=5)
    desk.outcomes(2, arm=0, epoch=1, count=5)
    (damaged,) = desk.journal.glob("00000001-*")
    data = bytearray(damaged.read_bytes())
    data[40] ^= 1
    damaged.write_bytes(data)
    desk.controller.run_once()
    assert "fails its checksum" in caplog.text
    totals = desk.store.experiment("exp").state.totals
    assert (totals["base"].requests, totals["a"].requests) == (5, 0)


def test_another_experiment_is_not_held_up_by_one_that_waits(desk: Desk, describe: Describe) -> None:
    desk.manifests["n"] = {name: replace(describe(name), model="n") for name in ("base", "a")}
    desk.apply()
    desk.apply(name="other", model="n")
    desk.begin()
    assert len(desk.controller.run_once()) == 2


def test_label_windows_close_once_their_time_is_over_also_after_a_death_and_without_news(desk: Desk) -> None:
    metric = {
        "name": "accuracy",
        "source": "feedback.correct",
        "role": "guardrail",
        "min": 0.5,
        "labelWindow": "1m",
    }
    desk.apply(metrics=[metric])
    desk.controller.run_once()
    desk.outcomes(1, arm=1, epoch=1, count=10)
    desk.controller.run_once()
    desk.now += 60.0
    desk.controller.run_once()
    waiting = desk.store.experiment("exp").state.totals["a"].windows["feedback.correct"]
    assert (waiting.opened, waiting.unlabelled) == (10, 0)
    desk.begin()
    desk.now += GRACE_S
    desk.controller.run_once()
    closed = desk.store.experiment("exp").state.totals["a"].windows["feedback.correct"]
    assert (closed.opened, closed.unlabelled) == (10, 10)


def test_windows_stay_open_while_the_journal_is_not_read_to_its_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = {
        "name": "accuracy",
        "source": "feedback.correct",
        "role": "guardrail",
        "min": 0.5,
        "labelWindow": "1m",
    }
    desk.apply(metrics=[metric])
    desk.controller.run_once()
    desk.outcomes(1, arm=1, epoch=1, count=10)
    desk.controller.run_once()
    desk.now += 60.0 + GRACE_S
    with monkeypatch.context() as behind:
        behind.setattr(JournalReader, "read", lambda _: Ingested(waiting_bytes=1))
        desk.controller.run_once()
    assert desk.store.experiment("exp").state.totals["a"].windows["feedback.correct"].unlabelled == 0
    desk.controller.run_once()
    assert desk.store.experiment("exp").state.totals["a"].windows["feedback.correct"].unlabelled == 10


def test_targets_of_classes_are_told_by_who_knows_them_and_kept_by_who_does_not(desk: Desk) -> None:
    def told() -> Any:
        catalog = desk.store.ledger.catalog()
        assert catalog is not None
        return catalog.class_targets_ms

    desk.begin().run_once()
    assert told() == {}
    knowing = desk.begin()
    knowing._class_targets_ms = {"batch": 9.0}
    knowing.run_once()
    assert told() == {"batch": 9.0}
    desk.begin().run_once()
    assert told() == {"batch": 9.0}
