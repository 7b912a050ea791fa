"""What is wrong with a document's gates and notifications beyond their fields."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from anabranch.store.document_schema import SpecDocument, WebhookDocument

MOST_TIMEOUT_S = 60.0
LEAST_INTERVAL_S = 1.0
_NEEDS_WEBHOOK = ("post-rollout", "rollback")
_MAY_FAIL = ("pre-rollout",)


def webhook_problems(body: SpecDocument) -> list[str]:
    """Every problem, with its path."""
    return [
        *_gate_problems(body),
        *_step_problems(body),
        *_notification_problems(body),
        *_name_problems(body),
    ]


def _gate_problems(body: SpecDocument) -> Iterator[str]:
    for index, gate in enumerate(body.gates):
        at = f"spec.gates[{index}] ({gate.name})"
        if gate.webhook is None and gate.type in _NEEDS_WEBHOOK:
            yield f"{at}: a {gate.type} gate needs a webhook; a person has `anabranch abort` and `undo`"
        if gate.failure_limit is not None and gate.type not in _MAY_FAIL:
            yield (
                f"{at}: a {gate.type} gate waits for as long as it is closed: failureLimit is for "
                f"{', '.join(_MAY_FAIL)} gates and gate steps"
            )
        yield from _interval_problems(at, gate.interval)
        yield from _url_problems(at, gate.webhook)


def _step_problems(body: SpecDocument) -> Iterator[str]:
    for index, step in enumerate(body.steps):
        if step.gate is None:
            continue
        at = f"spec.steps[{index}].gate"
        if step.gate.failure_limit is not None and step.gate.webhook is None:
            yield f"{at}.failureLimit: only a webhook refuses; a person aborts: remove it"
        yield from _interval_problems(at, step.gate.interval)
        yield from _url_problems(at, step.gate.webhook)


def _notification_problems(body: SpecDocument) -> Iterator[str]:
    for index, notification in enumerate(body.notifications):
        yield from _url_problems(f"spec.notifications[{index}] ({notification.name})", notification.webhook)


def _name_problems(body: SpecDocument) -> Iterator[str]:
    gates = [gate.name for gate in body.gates] + [step.gate.name for step in body.steps if step.gate]
    told = [notification.name for notification in body.notifications]
    for kind, names in (("gate", gates), ("notification", told)):
        yield from (
            f"spec: {names.count(name)} {kind}s are called {name}, rename all but one"
            for name in sorted(set(names))
            if names.count(name) > 1
        )


def _interval_problems(at: str, interval_s: float) -> Iterator[str]:
    if interval_s < LEAST_INTERVAL_S:
        yield f"{at}: interval {interval_s:g} s must be at least {LEAST_INTERVAL_S:g} s"


def _url_problems(at: str, webhook: WebhookDocument | None) -> Iterator[str]:
    if webhook is None:
        return
    try:
        host, _port = urlsplit(webhook.url).hostname, urlsplit(webhook.url).port
    except ValueError as error:
        host = None
        yield f"{at}.webhook.url: {error}"
    else:
        if not host:
            yield f"{at}.webhook.url: has no host"
    if not 0.0 < webhook.timeout <= MOST_TIMEOUT_S:
        yield f"{at}.webhook.timeout: {webhook.timeout:g} s must be above 0 and at most {MOST_TIMEOUT_S:g} s"
    if webhook.secret is not None and (webhook.secret.env is None) == (webhook.secret.file is None):
        yield f"{at}.webhook.secret: exactly one of env and file must be given"
