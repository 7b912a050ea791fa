"""One HTTP POST: to a permitted address, signed, without redirects, over within its timeout whatever the other side does."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from anabranch.bandit.hooks import Webhook
from anabranch.bandit.state import Reply
from anabranch.router.webhooks.policy import (
    NotPermitted,
    Policy,
    Resolve,
    permitted_address,
    read_key,
    resolve,
)
from anabranch.router.webhooks.signing import HEADER, signature

_MOST_ANSWER_BYTES: Final = 4096
_NO: Final = frozenset({403, 409, 412, 422, 423})
"""Statuses by which a service says no; any other that is no success says nothing about the question."""

AGENT: Final = "anabranch-webhook/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a request.

    Attributes:
        reply: What it means to a gate.
        detail: For people; holds nothing of the URL's query, the body or the secret.
        may_repeat: Whether another attempt may end differently by itself.
    """

    reply: Reply
    detail: str
    may_repeat: bool = False


def post(
    webhook: Webhook,
    body: bytes,
    *,
    key: str,
    policy: Policy,
    now: Callable[[], float],
    environment: Mapping[str, str],
    resolve: Resolve = resolve,
) -> Answer:
    """Send a body, and again where there was no answer, as often as the webhook allows.

    Args:
        webhook: Where to.
        body: JSON.
        key: Tells the same request apart from another one.
        policy: What the operator allows.
        now: Seconds since 1970, for the signature.
        environment: Where secrets of the environment are.
        resolve: Looks up a host.
    """
    answer = Answer(reply=Reply.UNKNOWN, detail="was not sent")
    for _ in range(webhook.retries + 1):
        answer = _post_once(webhook, body, key, policy, now, environment, resolve)
        if not answer.may_repeat:
            break
    return answer


def _post_once(
    webhook: Webhook,
    body: bytes,
    key: str,
    policy: Policy,
    now: Callable[[], float],
    environment: Mapping[str, str],
    resolve: Resolve,
) -> Answer:
    parts = urlsplit(webhook.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    headers = {"Content-Type": "application/json", "User-Agent": AGENT, "X-Anabranch-Id": key}
    try:
        if webhook.secret is not None:
            headers[HEADER] = signature(read_key(webhook.secret, policy, environment), body, now())
        address = permitted_address(host, port, policy, resolve)
    except NotPermitted as refusal:
        return Answer(reply=Reply.UNKNOWN, detail=str(refusal))
    except UnicodeError as error:
        return Answer(reply=Reply.UNKNOWN, detail=f"{host!r} is no name of a host: {error}")
    except OSError as error:
        return Answer(
            reply=Reply.UNKNOWN, detail=f"{host} cannot be found: {error.strerror or error}", may_repeat=True
        )
    connection = _Connection(host, port, address, is_tls=parts.scheme == "https", timeout_s=webhook.timeout_s)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    # A side that sends a byte now and then would never run into the timeout of a single read.
    overdue = threading.Timer(webhook.timeout_s, connection.cut)
    overdue.daemon = True
    overdue.start()
    try:
        connection.request("POST", target, body=body, headers=headers)
        response = connection.getresponse()
        response.read(_MOST_ANSWER_BYTES)
        return _meaning(response.status)
    except UnicodeError:
        return Answer(reply=Reply.UNKNOWN, detail="the URL has characters beyond ASCII: percent-encode them")
    except (OSError, http.client.HTTPException) as error:
        what = (
            f"no answer within {webhook.timeout_s:g} s"
            if connection.is_cut
            else f"no answer: {_named(error)}"
        )
        return Answer(reply=Reply.UNKNOWN, detail=what, may_repeat=True)
    finally:
        overdue.cancel()
        connection.close()


def _meaning(status: int) -> Answer:
    if 200 <= status < 300:
        return Answer(reply=Reply.YES, detail=f"HTTP {status}")
    if status in _NO:
        return Answer(reply=Reply.NO, detail=f"HTTP {status}")
    if 300 <= status < 400:
        return Answer(reply=Reply.UNKNOWN, detail=f"HTTP {status}: redirects are not followed")
    return Answer(
        reply=Reply.UNKNOWN, detail=f"HTTP {status}", may_repeat=status >= 500 or status in (408, 425, 429)
    )


def _named(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was looked up before, under the name of its host."""

    def __init__(self, host: str, port: int, address: str, *, is_tls: bool, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self._address = address
        self._tls = ssl.create_default_context() if is_tls else None
        self._timeout_s = timeout_s
        self.is_cut = False

    def connect(self) -> None:
        """Connect to the address, and show a certificate of the host."""
        plain = socket.create_connection((self._address, self.port), timeout=self._timeout_s)
        self.sock = plain
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)

    def cut(self) -> None:
        """End it from another thread."""
        self.is_cut = True
        held = self.sock
        if held is not None:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:
                return
