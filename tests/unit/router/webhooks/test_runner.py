import json
import threading
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.hooks import Webhook
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.state import Reply
from anabranch.router.controller import Controller
from anabranch.router.webhooks.policy import Policy
from anabranch.router.webhooks.runner import FIRST_PAUSE_S, MOST_ATTEMPTS, Webhooks
from anabranch.router.webhooks.sending import Answer
from anabranch.store.memory import MemoryStore
from anabranch.store.outbox_port import Fate
from anabranch.store.verify import verify

HOOK = {"url": "https://hooks.example.com/x?token=hidden", "retries": 0}


def document(**more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "anabranch/v1",
        "kind": "Experiment",
        "metadata": {"name": "exp"},
        "spec": {
            "model": "m",
            "baseline": "base",
            "candidates": ["a"],
            "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.2}],
            "steps": [{"setWeight": 10}, {"pause": {}}],
            **more,
        },
    }


class Outside:
    """Everybody that is called: answers in turn, the last answer for ever."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.got: list[tuple[Webhook, dict[str, Any], str]] = []
        self._lock = threading.Lock()

    def __call__(self, webhook: Webhook, body: bytes, *, key: str, **_: object) -> Answer:
        with self._lock:
            self.got.append((webhook, json.loads(body), key))
            reply = self.replies[min(len(self.got), len(self.replies)) - 1]
        return Answer(reply=reply, detail="HTTP 200" if reply is Reply.YES else "HTTP 403")


class Bench:
    """A controller with webhooks on a store, and a clock of its own."""

    def __init__(self, tmp_path: Path, outside: Outside, store: MemoryStore | None = None) -> None:
        self.now = 1000.0
        self.store = store or MemoryStore()
        self.outside = outside
        self.webhooks = Webhooks(
            self.store,
            Policy(hosts=("hooks.example.com",)),
            wall_clock=lambda: self.now,
            environment={},
            send=outside,
        )
        self.controller = Controller(
            self.store,
            tmp_path,
            manifests=MANIFESTS,
            baselines={"m": "base"},
            wall_clock=lambda: self.now,
            publish=lambda _snapshot: None,
            webhooks=self.webhooks,
        )

    def round(self, after: float = 1.0) -> Phase:
        self.now += after
        self.controller.run_once()
        self.controller.finish_webhooks()
        return self.store.experiment("exp").state.phase


class _Served:
    signatures = outputs = ()


MANIFESTS: Any = {"m": {"base": _Served(), "a": _Served()}}


def test_a_gate_is_asked_and_its_answer_is_saved_before_it_acts(tmp_path: Path) -> None:
    outside = Outside(Reply.YES)
    bench = Bench(tmp_path, outside)
    gate = {"name": "ok", "type": "confirm-rollout", "webhook": HOOK}
    bench.store.apply(document(gates=[gate]), "ada", 999.0)
    assert bench.round() is Phase.PENDING
    [asked] = bench.store.pending("exp")
    assert (asked.verb, asked.actor) == (Verb.ANSWER, "gate:ok")
    [(_, body, key)] = outside.got
    assert body["id"] == key
    assert (body["gate"], body["kind"], body["occasion"]) == ("ok", "confirm-rollout", "start")
    assert bench.round() is Phase.PAUSED
    assert len(outside.got) == 1
    assert verify(bench.store, "exp").matches


def test_a_closed_gate_is_asked_at_its_interval_and_recorded_once(tmp_path: Path) -> None:
    outside = Outside(Reply.NO)
    bench = Bench(tmp_path, outside)
    gate = {"name": "ok", "type": "confirm-rollout", "webhook": HOOK, "interval": "30s"}
    bench.store.apply(document(gates=[gate]), "ada", 999.0)
    for _ in range(61):
        bench.round()
    assert len(outside.got) == 3
    answers = [event for event in bench.store.events("exp") if event.verb == Verb.ANSWER]
    assert len(answers) == 1
    assert "hidden" not in str(bench.store.events("exp")) + str(bench.store.decisions("exp"))


def test_every_refusal_of_a_gate_with_a_limit_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Outside(Reply.UNKNOWN, Reply.NO, Reply.UNKNOWN, Reply.NO))
    gate = {"name": "test", "type": "pre-rollout", "webhook": HOOK, "interval": "1s", "failureLimit": 1}
    bench.store.apply(document(gates=[gate]), "ada", 999.0)
    phases = [bench.round() for _ in range(8)]
    assert phases.index(Phase.ROLLED_BACK) == 4
    assert "refused 2 times > failureLimit 1" in bench.store.decisions("exp")[-1].decision.summary


def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = Outside(Reply.YES)
    bench = Bench(tmp_path, first)
    gate = {"name": "ok", "type": "confirm-rollout", "webhook": HOOK}
    bench.store.apply(document(gates=[gate]), "ada", 999.0)

    def die(*_: object) -> None:
        raise RuntimeError("killed between the answer and its save")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "request", die)
        assert bench.round() is Phase.PENDING
    assert "killed between" in caplog.text
    second = Outside(Reply.YES)
    again = Bench(tmp_path, second, bench.store)
    again.round()
    assert [key for _, _, key in first.got] == [key for _, _, key in second.got]
    assert again.round() is Phase.PAUSED


def test_a_rollback_gate_is_asked_while_the_experiment_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Outside(Reply.NO, Reply.NO, Reply.YES))
    gate = {"name": "stop", "type": "rollback", "webhook": HOOK, "interval": "1s"}
    bench.store.apply(document(gates=[gate]), "ada", 999.0)
    phases = [bench.round() for _ in range(6)]
    assert phases[-1] is Phase.ROLLED_BACK
    answers = [event for event in bench.store.events("exp") if event.verb == Verb.ANSWER]
    assert len(answers) == 1


def test_every_phase_change_is_told_once(tmp_path: Path) -> None:
    outside = Outside(Reply.YES)
    bench = Bench(tmp_path, outside)
    told = [
        {"name": "all", "webhook": HOOK},
        {"name": "chat", "webhook": HOOK, "format": "slack", "phases": ["Aborted"]},
    ]
    after = {"name": "cleanup", "type": "post-rollout", "webhook": HOOK}
    bench.store.apply(document(notifications=told, gates=[after]), "ada", 999.0)
    bench.round()
    bench.store.request("exp", Verb.ABORT, "", "ada", 1001.0)
    for _ in range(5):
        bench.round()
    bodies = [body for _, body, _ in outside.got]
    changes = [(body["from"], body["phase"]) for body in bodies if body.get("type") == "phase"]
    assert changes == [("Pending", "Paused"), ("Paused", "Aborted")]
    [slack] = [body for body in bodies if set(body) == {"text"}]
    assert slack["text"].startswith("exp (m): Paused → Aborted. aborted by ada")
    [last] = [body for body in bodies if body.get("kind") == "post-rollout"]
    assert last["phase"] == "Aborted"
    assert {each.fate for each in bench.store.outbox.messages("exp")} == {Fate.DELIVERED}


def test_a_message_is_told_again_after_growing_pauses_until_it_is_given_up(tmp_path: Path) -> None:
    outside = Outside(Reply.UNKNOWN)
    bench = Bench(tmp_path, outside)
    bench.store.apply(document(notifications=[{"name": "chat", "webhook": HOOK}]), "ada", 999.0)
    bench.round()
    assert len(outside.got) == 1
    bench.round(FIRST_PAUSE_S - 0.5)
    assert len(outside.got) == 1
    bench.round(FIRST_PAUSE_S)
    assert len(outside.got) == 2
    for _ in range(MOST_ATTEMPTS + 3):
        bench.round(4000.0)
    [message] = bench.store.outbox.messages("exp")
    assert (message.fate, message.attempts, len(outside.got)) == (Fate.DEAD, MOST_ATTEMPTS, MOST_ATTEMPTS)
    assert len({key for _, _, key in outside.got}) == 1
    [event] = [event for event in bench.store.events("exp") if event.verb == "gave-up"]
    assert "chat was not told" in event.detail
    assert bench.store.experiment("exp").state.phase is Phase.PAUSED


@pytest.mark.parametrize("url", ["https://other.example.com/x", "http://169.254.169.254/latest"])
def test_a_host_that_the_operator_did_not_list_ends_the_experiment_before_it_starts(
    tmp_path: Path, url: str
) -> None:
    outside = Outside(Reply.YES)
    bench = Bench(tmp_path, outside)
    gate = {"name": "ok", "type": "confirm-rollout", "webhook": {"url": url}}
    bench.store.apply(document(gates=[gate]), "ada", 999.0)
    assert bench.round() is Phase.ABORTED
    assert "the server may not send to" in bench.store.decisions("exp")[0].decision.summary
    assert outside.got == []
