"""Gates and notifications as they are asked for: when somebody outside is asked or told, where, and how it is signed.

The decision core never calls anybody. It says which gates it waits for, and hears the answers as commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class GateKind(StrEnum):
    """When a gate is asked, in Flagger's words."""

    CONFIRM_ROLLOUT = "confirm-rollout"  # before the experiment starts
    PRE_ROLLOUT = "pre-rollout"  # after that, before a candidate gets any request
    CONFIRM_TRAFFIC_INCREASE = "confirm-traffic-increase"  # before a step gives a candidate more traffic
    CONFIRM_PROMOTION = "confirm-promotion"  # before a promotion begins
    POST_ROLLOUT = "post-rollout"  # told once it is over; the answer changes nothing
    ROLLBACK = "rollback"  # asked all the time: a yes rolls back
    STEP = "gate"  # in a step of its own


class SecretPlace(StrEnum):
    """Where the server finds a secret."""

    ENV = "env"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A reference to a key; the key itself is never in a document, a store or a log."""

    place: SecretPlace
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where a request goes.

    Attributes:
        secret: Key of the signature; None sends unsigned.
        timeout_s: For one attempt, from the look-up of the name to the end of the answer.
        retries: Further attempts at once when there was no answer.
    """

    url: str
    secret: Secret | None = None
    timeout_s: float = 10.0
    retries: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Somebody who must agree before the experiment goes on.

    Attributes:
        webhook: Who is asked; None waits for a person's `approve`.
        interval_s: Time between two questions while the gate is closed.
        failure_limit: More refusals than this roll back; None waits for as long as it is refused.
    """

    name: str
    kind: GateKind
    webhook: Webhook | None = None
    interval_s: float = 30.0
    failure_limit: int | None = None


class Format(StrEnum):
    """The body of a notification."""

    JSON = "json"
    SLACK = "slack"  # `text` only, which Slack and those like it take


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """Somebody who hears of every phase change.

    Attributes:
        phases: Only of changes to these; empty for all.
    """

    name: str
    webhook: Webhook
    format: Format = Format.JSON
    phases: tuple[str, ...] = ()
