import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.hooks import Secret, SecretPlace, Webhook
from anabranch.bandit.state import Reply
from anabranch.router.webhooks.policy import (
    NotPermitted,
    Policy,
    permitted_address,
    policy_from,
    read_key,
    resolve,
)
from anabranch.router.webhooks.sending import Answer, post
from anabranch.router.webhooks.signing import HEADER, is_signed, signature

KEY = b"correct horse battery staple"
ENVIRONMENT = {"ANABRANCH_WEBHOOK_CI": KEY.decode()}
SECRET = Secret(place=SecretPlace.ENV, name="ANABRANCH_WEBHOOK_CI")


class Receiver:
    """A receiver on loopback that answers what it is told to, and remembers what it got."""

    def __init__(self, statuses: list[int]) -> None:
        got: list[tuple[str, dict[str, str], bytes]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.append((self.path, dict(self.headers.items()), body))
                self.send_response(statuses[min(len(got), len(statuses)) - 1])
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.got = got
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str = "/gate") -> str:
        return f"http://localhost:{self.server.server_address[1]}{path}"


@pytest.fixture
def receive(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[Receiver] = []

    def make(*statuses: int) -> Receiver:
        made.append(Receiver(list(statuses)))
        return made[-1]

    yield make
    for each in made:
        each.server.shutdown()
        each.server.server_close()


def send(
    webhook: Webhook, *, hosts: tuple[str, ...] = ("localhost",), environment: Mapping[str, str] = ENVIRONMENT
) -> Answer:
    return post(
        webhook,
        b'{"id":"k"}',
        key="k",
        policy=Policy(hosts=hosts),
        now=time.time,
        environment=environment,
        resolve=lambda _host, _port: ["127.0.0.1"],
    )


@pytest.mark.parametrize(
    ("status", "reply"),
    [
        (200, Reply.YES),
        (204, Reply.YES),
        (403, Reply.NO),
        (409, Reply.NO),
        (401, Reply.UNKNOWN),
        (404, Reply.UNKNOWN),
        (500, Reply.UNKNOWN),
    ],
)
def test_a_success_is_a_yes_a_refusal_a_no_and_anything_else_unknown(
    receive: Any, status: int, reply: Reply
) -> None:
    receiver = receive(status)
    assert send(Webhook(url=receiver.url(), retries=0)) == Answer(
        reply=reply, detail=f"HTTP {status}", may_repeat=status == 500
    )


def test_a_request_carries_its_key_and_a_signature_that_the_receiver_can_check(receive: Any) -> None:
    receiver = receive(200)
    send(Webhook(url=receiver.url("/gate?x=1"), secret=SECRET))
    [(path, headers, body)] = receiver.got
    assert path == "/gate?x=1"
    assert headers["X-Anabranch-Id"] == json.loads(body)["id"] == "k"
    assert is_signed(headers[HEADER], KEY, body, time.time())
    assert KEY.decode() not in str(headers)


def test_a_redirect_is_not_followed(receive: Any) -> None:
    receiver = receive(302, 200)
    answer = send(Webhook(url=receiver.url()))
    assert (answer.reply, answer.detail) == (Reply.UNKNOWN, "HTTP 302: redirects are not followed")
    assert len(receiver.got) == 1


def test_what_broke_is_tried_again_and_what_was_said_is_not(receive: Any) -> None:
    receiver = receive(503, 500, 200)
    assert send(Webhook(url=receiver.url(), retries=2)).reply is Reply.YES
    assert len(receiver.got) == 3
    refusing = receive(403, 200)
    assert send(Webhook(url=refusing.url(), retries=2)).reply is Reply.NO
    assert len(refusing.got) == 1


def test_nothing_is_sent_without_the_secret_that_was_asked_for(receive: Any) -> None:
    receiver = receive(200)
    answer = send(Webhook(url=receiver.url(), secret=SECRET), environment={})
    assert answer.reply is Reply.UNKNOWN
    assert "ANABRANCH_WEBHOOK_CI holds 0 bytes" in answer.detail
    assert receiver.got == []


def test_a_host_that_is_not_listed_is_not_reached(receive: Any) -> None:
    receiver = receive(200)
    answer = send(Webhook(url=receiver.url()), hosts=("hooks.example.com",))
    assert (answer.reply, receiver.got) == (Reply.UNKNOWN, [])
    assert "localhost is not in ANABRANCH_WEBHOOK_HOSTS (hooks.example.com)" in answer.detail


def test_a_receiver_that_answers_byte_by_byte_is_cut_off_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            client, _ = listener.accept()
            with client:
                while not stop.wait(0.02):
                    try:
                        client.sendall(b"H")
                    except OSError:
                        return

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        begun = time.monotonic()
        url = f"http://localhost:{listener.getsockname()[1]}/"
        answer = send(Webhook(url=url, timeout_s=0.3, retries=0))
        spent = time.monotonic() - begun
        stop.set()
        dripping.join()
    assert answer.reply is Reply.UNKNOWN
    assert spent < 5.0


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1",
        "::ffff:169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "0.0.0.0",
        "224.0.0.1",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
    ],
)
def test_addresses_of_metadata_and_of_the_link_are_never_reached(address: str) -> None:
    policy = Policy(hosts=("evil.example.com",))
    with pytest.raises(NotPermitted, match="which webhooks may not reach"):
        permitted_address("evil.example.com", 80, policy, lambda _host, _port: ["93.184.216.34", address])


@pytest.mark.parametrize(
    "url", ["http://a..example.com/x", "http://localhost:9/caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_a_url_that_cannot_be_sent_is_answered_for_once(url: str) -> None:
    # An exception would leave its message in the outbox for ever.
    def looked_up(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == "localhost" else resolve(host, port)

    answer = post(
        Webhook(url=url),
        b"{}",
        key="k",
        policy=Policy(hosts=("*.example.com", "localhost")),
        now=time.time,
        environment={},
        resolve=looked_up,
    )
    assert (answer.reply, answer.may_repeat) == (Reply.UNKNOWN, False)


def test_below_a_wildcard_only_public_addresses_are_reached() -> None:
    def inside(_host: str, _port: int) -> list[str]:
        return ["10.0.0.7"]

    with pytest.raises(NotPermitted, match=r"10\.0\.0\.7"):
        permitted_address("a.example.com", 80, Policy(hosts=("*.example.com",)), inside)
    assert permitted_address("a.example.com", 80, Policy(hosts=("a.example.com",)), inside) == "10.0.0.7"
    with pytest.raises(NotPermitted, match="not in ANABRANCH_WEBHOOK_HOSTS"):
        permitted_address("example.com.evil.org", 80, Policy(hosts=("*.example.com",)), inside)


def test_a_signature_holds_for_its_body_its_key_and_some_minutes() -> None:
    header = signature(KEY, b"body", 1000.0)
    assert is_signed(header, KEY, b"body", 1200.0)
    assert not is_signed(header, KEY, b"bodY", 1200.0)
    assert not is_signed(header, b"another key entirely", b"body", 1200.0)
    assert not is_signed(header, KEY, b"body", 1301.0)
    assert not is_signed(header.replace("t=1000", "t=1200"), KEY, b"body", 1200.0)
    assert not is_signed("v1=", KEY, b"body", 1000.0)


def test_secrets_are_read_by_reference_only(tmp_path: Path) -> None:
    (tmp_path / "ci.key").write_bytes(KEY + b"\n")
    policy = policy_from(
        {"ANABRANCH_WEBHOOK_HOSTS": "a.example.com, *.b.org", "ANABRANCH_WEBHOOK_SECRETS": str(tmp_path)}
    )
    assert policy.hosts == ("a.example.com", "*.b.org")
    assert read_key(Secret(place=SecretPlace.FILE, name="ci.key"), policy, {}) == KEY
    for name in ("../ci.key", "none.key"):
        if name == "../ci.key":
            assert read_key(Secret(place=SecretPlace.FILE, name=name), policy, {}) == KEY, (
                "the folder is not left"
            )
            continue
        with pytest.raises(NotPermitted, match="cannot be read"):
            read_key(Secret(place=SecretPlace.FILE, name=name), policy, {})
    settings = {"ANABRANCH_WEBHOOK_HOSTS": "hooks.example.com,ci.example.com"}
    with pytest.raises(NotPermitted, match="is a setting and no secret"):
        read_key(Secret(place=SecretPlace.ENV, name="ANABRANCH_WEBHOOK_HOSTS"), policy, settings)
    with pytest.raises(NotPermitted, match="must begin with ANABRANCH_WEBHOOK_"):
        read_key(Secret(place=SecretPlace.ENV, name="ANABRANCH_TOKEN"), policy, {"ANABRANCH_TOKEN": "x" * 64})
    with pytest.raises(NotPermitted, match="names no folder"):
        read_key(Secret(place=SecretPlace.FILE, name="ci.key"), Policy(), {})
