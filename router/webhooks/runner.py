"""The runner of effects: it asks the gates that experiments wait for, and tells what the outbox holds.

It only looks at what is saved. An answer goes into the store as a request, which the next tick hears: it is saved before
it acts. A controller that dies between the two asks again, with the same key. Nothing here holds a tick up: requests run
on threads of their own, each at most once at a time.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from anabranch.bandit.decision import Verb
from anabranch.bandit.gating import Question, answer_text, questions
from anabranch.bandit.hooks import GateKind, Webhook
from anabranch.bandit.state import Reply
from anabranch.router.webhooks.bodies import question_body, question_key
from anabranch.router.webhooks.policy import Policy
from anabranch.router.webhooks.sending import Answer, post
from anabranch.store.document import parse
from anabranch.store.outbox_port import Fate, Outgoing
from anabranch.store.port import Store, StoredExperiment

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 3600.0
MOST_ATTEMPTS: Final = 20
"""With pauses that double up to an hour, a receiver may be away for nine hours before a message is given up."""
_AT_ONCE: Final = 8

Post = Callable[..., Answer]


class Webhooks:
    """Asks and tells, for the controller that leads.

    Args:
        store: Where experiments, answers and the outbox are.
        policy: What the operator allows.
        wall_clock: Seconds since 1970.
        environment: Where secrets of the environment are.
        send: Sends one request; see `sending.post`.
    """

    def __init__(
        self,
        store: Store,
        policy: Policy,
        *,
        wall_clock: Callable[[], float],
        environment: Mapping[str, str] = os.environ,
        send: Post = post,
    ) -> None:
        self._store = store
        self._policy = policy
        self._wall_clock = wall_clock
        self._environment = environment
        self._send = send
        # Daemons: a receiver that hangs must not keep a server from ending.
        self._running: dict[str, threading.Thread] = {}
        self._asked_s: dict[str, float] = {}

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where requests may go."""
        return self._policy.hosts

    def look(self, experiments: Iterable[StoredExperiment]) -> None:
        """Begin every request whose time has come."""
        now = self._wall_clock()
        self._running = {name: task for name, task in self._running.items() if task.is_alive()}
        current: set[str] = set()
        for kept in experiments:
            if kept.state.phase.is_over:
                continue
            experiment = parse(kept.document)
            for question in questions(experiment, kept.state):
                place = f"{kept.name}/{question.gate.name}/{question.occasion}"
                current.add(place)
                if now - self._asked_s.get(place, -1e18) >= question.gate.interval_s:
                    self._begin(place, now, partial(self._ask, kept, question))
        self._asked_s = {place: at for place, at in self._asked_s.items() if place in current}
        for outgoing in self._store.outbox.due(now, _AT_ONCE):
            self._begin(f"outbox/{outgoing.id}", None, partial(self._tell, outgoing))

    def finish(self, timeout_s: float | None = None) -> None:
        """Wait for the requests that have begun."""
        for task in self._running.values():
            task.join(timeout_s)

    def _begin(self, place: str, asked_s: float | None, work: Callable[[], None]) -> None:
        if place in self._running or len(self._running) >= _AT_ONCE:
            return
        if asked_s is not None:
            self._asked_s[place] = asked_s
        task = threading.Thread(
            target=self._guarded, args=(place, work), name=f"webhook {place}", daemon=True
        )
        self._running[place] = task
        task.start()

    def _guarded(self, place: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001  # a webhook never ends a controller: what failed is asked or told again
            _log.exception("a webhook failed: %s", place)

    def _ask(self, kept: StoredExperiment, question: Question) -> None:
        experiment = parse(kept.document)
        webhook = question.gate.webhook
        assert webhook is not None
        key = question_key(kept.name, kept.spec_version, question)
        body = question_body(experiment, kept.state, question, key)
        answer = self._post(webhook, body, key)
        if not _is_news(question, answer):
            return
        argument = answer_text(question.gate.name, answer.reply, question.occasion, answer.detail)
        actor = f"gate:{question.gate.name}"
        self._store.request(kept.name, Verb.ANSWER, argument, actor, self._wall_clock())

    def _tell(self, outgoing: Outgoing) -> None:
        message = outgoing.message
        answer = self._post(replace(message.webhook, retries=0), message.body.encode(), message.key)
        attempts = outgoing.attempts + 1
        if answer.reply is Reply.YES:
            settled = replace(outgoing, fate=Fate.DELIVERED, attempts=attempts, error="")
        elif attempts >= MOST_ATTEMPTS:
            settled = replace(outgoing, fate=Fate.DEAD, attempts=attempts, error=answer.detail)
            detail = f"{message.target} was not told ({message.key}): {answer.detail}, {attempts} attempts"
            self._store.outbox.note_dead(outgoing.experiment, detail, self._wall_clock())
        else:
            pause_s = min(FIRST_PAUSE_S * 2.0 ** (attempts - 1), LONGEST_PAUSE_S)
            due_s = self._wall_clock() + pause_s
            settled = replace(outgoing, attempts=attempts, due_s=due_s, error=answer.detail)
        self._store.outbox.settle(settled)

    def _post(self, webhook: Webhook, body: bytes, key: str) -> Answer:
        return self._send(
            webhook, body, key=key, policy=self._policy, now=self._wall_clock, environment=self._environment
        )


def _is_news(question: Question, answer: Answer) -> bool:
    """Whether an answer changes anything: a gate that stays closed is asked for days, and recorded once."""
    if question.gate.kind is GateKind.ROLLBACK:
        return answer.reply is Reply.YES
    counts = question.gate.failure_limit is not None and answer.reply is Reply.NO
    return counts or answer.reply is not question.last
