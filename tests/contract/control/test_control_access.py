"""Attacks on the control port: who is let in, to what, and what is written down of those who are not."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from anabranch.bandit.decision import Verb
from anabranch.client import asks, errors
from anabranch.client.target import Credentials
from anabranch.proto import control_pb2 as pb
from anabranch.router.access.identities import InvalidIdentities, read_identities
from anabranch.router.control import verbs as verbs_module
from anabranch.router.control.permissions import NEEDS, SERVICE
from anabranch.router.control.port import LIMITS, PortSettings, Unprotected
from anabranch.router.control.verbs import ASKABLE
from anabranch.router.control.watches import MOST_OF_ONE
from anabranch.store.access import GRANTS, Role
from anabranch.store.verify import verify
from anabranch.wire.seam import Tls

Bench = Any
Start = Callable[..., Bench]
Write = Callable[..., dict[str, Any]]
TLS = Path(__file__).parents[1] / "wire" / "tls"
METHODS = pb.DESCRIPTOR.services_by_name["ControlService"].methods
SHUT_OUT = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def raw(bench: Bench) -> Any:
    """A channel without our client."""
    return grpc.insecure_channel(bench.address)


def outcome(bench: Bench, method: Any, token: str | None, **fields: Any) -> grpc.StatusCode:
    """What a call of any method comes to."""
    request = GetMessageClass(method.input_type)()
    for name, value in fields.items():
        if name in method.input_type.fields_by_name:
            setattr(request, name, value)
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with raw(bench) as channel:
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        call = kind(
            f"/{SERVICE}/{method.name}", request_serializer=lambda message: message.SerializeToString()
        )
        try:
            answer = call(request, timeout=20, metadata=metadata)
            if method.server_streaming:
                next(iter(answer), None)
                answer.cancel()
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def eventually(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < give_up, "not in time"
        threading.Event().wait(0.01)


def audit(bench: Bench) -> list[tuple[str, str]]:
    """The refusals that were written down, once there is one."""

    def written() -> list[tuple[str, str]]:
        events = bench.store.events()
        return [(event.actor, event.verb) for event in events if event.verb.startswith("refused")]

    eventually(written)
    return written()


def test_every_method_is_in_the_table() -> None:
    assert set(NEEDS) == {method.name for method in METHODS}


@pytest.mark.parametrize("role", [None, *Role])
def test_every_method_is_open_to_exactly_the_roles_that_have_its_permission(
    start: Start, write: Write, role: Role | None
) -> None:
    bench = start()
    admin = bench.token("root", Role.ADMIN)
    with bench.client(admin) as client:
        client.apply(write())
    token = None if role is None else bench.token("who", role, "m")
    elsewhere = None if role is None else bench.token("elsewhere", role, "another-model")
    for method in METHODS:
        fields = {"name": "exp", "experiment": "exp", "verb": "pause", "model": "m"}
        fields["document"] = json.dumps(write())
        got = outcome(bench, method, token, **fields)
        needed = NEEDS[method.name]
        if role is None:
            assert got is grpc.StatusCode.UNAUTHENTICATED, method.name
        elif needed is not None and needed not in GRANTS[role]:
            assert got is grpc.StatusCode.PERMISSION_DENIED, method.name
        else:
            assert got not in SHUT_OUT, method.name
        if role is not None and method.name in ("Apply", "Diff"):
            assert outcome(bench, method, elsewhere, **fields) is grpc.StatusCode.PERMISSION_DENIED
        elif role is not None and needed in GRANTS[role] and "name" in method.input_type.fields_by_name:
            # It is not even told that there is one.
            assert outcome(bench, method, elsewhere, **fields) is grpc.StatusCode.NOT_FOUND, method.name


def test_only_an_admin_forces_a_candidate_past_the_gate(start: Start, write: Write) -> None:
    bench = start()
    with bench.client(bench.token("op", Role.OPERATOR)) as client, pytest.raises(errors.NotAllowed):
        client.apply(write(), force=True)
    with bench.client(bench.token("root", Role.ADMIN)) as client:
        assert client.apply(write(), force=True).outcome == "created"


@pytest.mark.parametrize(
    "verb", [verb for verb in Verb if verb not in ASKABLE] + ["", "PROMOTE", "drop table"]
)
def test_what_is_nobodys_to_ask_is_refused_to_an_admin_too(start: Start, write: Write, verb: str) -> None:
    bench = start()
    with bench.client(bench.token("root", Role.ADMIN)) as client:
        client.apply(write())
        with pytest.raises(errors.Invalid, match="must be one of promote, promote-full, pause"):
            client._one(asks.request("exp", verb, "pre-rollout pass"))
    assert bench.store.pending("exp") == ()


def test_who_served_a_model_is_told_to_whoever_may_see_the_model(start: Start) -> None:
    bench = start()
    for model in ("mine", "theirs"):
        bench.store.set_baseline(model, "base", 1.0)
    with bench.client(bench.token("op", Role.VIEWER, "mine")) as client:
        assert len(client.tenures("mine")) == 1
        with pytest.raises(errors.NotAllowed, match="model theirs"):
            client.tenures("theirs")


def test_a_name_taken_on_another_model_is_no_way_to_its_traffic(start: Start, write: Write) -> None:
    bench = start()
    with bench.client(bench.token("root", Role.ADMIN)) as client:
        client.apply(write("exp", "theirs"))
        client.abort("exp")
        bench.tick()
    with bench.client(bench.token("op", Role.OPERATOR, "mine")) as client:
        with pytest.raises(errors.NotAllowed, match="taken"):
            client.apply(write("exp", "mine"))
        assert client.experiments() == []
        assert client.events() == []
    assert bench.store.experiment("exp").document["spec"]["model"] == "theirs"


@pytest.mark.parametrize(
    "damage", ["other", "cut", "longer", "other id", "no scheme", "basic", "empty", "digest"]
)
def test_a_forged_token_is_refused_in_the_same_words_as_any_other(start: Start, damage: str) -> None:
    bench = start()
    token = bench.token("ci", Role.ADMIN)
    kept = bench.store.access.tokens()[0]
    forged = {
        "other": f"Bearer {token[:-9]}{'A' if token[-9] != 'A' else 'B'}{token[-8:]}",
        "cut": f"Bearer {token[:-1]}",
        "longer": f"Bearer {token}0",
        "other id": f"Bearer anabranch_000000000000{token[22:]}",
        "no scheme": token,
        "basic": f"Basic {token}",
        "empty": "Bearer",
        "digest": f"Bearer {kept.digest}",
    }[damage]
    with raw(bench) as channel:
        call = channel.unary_unary(f"/{SERVICE}/WhoAmI")
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=20, metadata=[("authorization", forged)])
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert str(raised.value.details()).startswith(
        "the token is not valid here: it is unknown, expired or revoked"
    )
    assert audit(bench) == [("ipv4:127.0.0.1", "refused WhoAmI")]


def test_an_expired_and_a_revoked_token_are_refused(start: Start) -> None:
    bench = start()
    short = bench.token("short", Role.VIEWER, life_s=10.0)
    long = bench.token("long", Role.VIEWER)
    with bench.client(short) as client:
        assert client.who_am_i().actor == "token:short"
        bench.now += 10.0
        with pytest.raises(errors.NotKnown):
            client.who_am_i()
    (kept,) = [token for token in bench.store.access.tokens() if token.name == "long"]
    with bench.client(long) as client:
        client.who_am_i()
        bench.store.access.save_token(
            replace(kept, revoked_s=bench.now), verb="token revoke", actor="ada", now=bench.now
        )
        bench.port.refresh()
        with pytest.raises(errors.NotKnown):
            client.who_am_i()


def test_a_watch_ends_when_its_token_is_revoked(start: Start, write: Write) -> None:
    bench = start()
    with bench.client(bench.token("root", Role.ADMIN)) as client:
        client.apply(write())
    watcher = bench.client(bench.token("eve", Role.VIEWER))
    seen = watcher.watch("exp", timeout_s=30)
    assert next(seen).phase == "Pending"
    (kept,) = [token for token in bench.store.access.tokens() if token.name == "eve"]
    bench.store.access.save_token(replace(kept, revoked_s=bench.now), verb="x", actor="ada", now=bench.now)
    bench.port.refresh()
    with pytest.raises(errors.NotAllowed):
        list(seen)
    watcher.close()


def test_a_revoked_last_token_does_not_open_the_port_to_everybody(start: Start) -> None:
    bench = start()
    with bench.client() as client:
        assert client.who_am_i().role == "admin"
    bench.token("ci", Role.ADMIN)
    for token in bench.store.access.tokens():
        bench.store.access.save_token(replace(token, revoked_s=bench.now), verb="x", actor="a", now=bench.now)
    bench.port.refresh()
    with bench.client() as client, pytest.raises(errors.NotKnown):
        client.who_am_i()


def test_the_last_use_of_a_token_is_kept(start: Start) -> None:
    bench = start()
    with bench.client(bench.token("ci", Role.VIEWER)) as client:
        client.who_am_i()
    bench.port.refresh()
    assert bench.store.access.tokens()[0].last_used_s == bench.now


def test_a_flood_of_refused_attempts_is_counted_and_not_written_line_by_line(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    bench = start()
    bench.token("ci", Role.VIEWER)
    caplog.set_level(logging.WARNING)
    with bench.client() as client:
        for _ in range(60):
            with pytest.raises(errors.NotKnown):
                client.who_am_i()
    written = audit(bench)
    assert len(written) <= 25
    assert len([line for line in caplog.messages if line.startswith("refused")]) <= 25
    assert bench.port.refused["unauthenticated"] >= 60


def test_what_a_caller_says_of_itself_forges_no_log_line(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    bench = start()
    token = bench.token("op", Role.OPERATOR)
    evil = "x\n2026-01-01 INFO token:root promoted everything\x1b[2J"
    with bench.client(token) as client:
        with pytest.raises(errors.NotFound) as not_found:
            client.get(evil)
        with pytest.raises(errors.NotFound):
            client.abort(evil)
    assert "\n" not in str(not_found.value)
    assert "\x1b" not in str(not_found.value)
    assert all("\n" not in message and "\x1b" not in message for message in caplog.messages)
    assert all(event.detail.isprintable() for event in bench.store.events())


def test_no_secret_is_in_logs_events_or_errors(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench = start()
    good = bench.token("ci", Role.VIEWER)
    bad = f"{good[:-1]}{'0' if good[-1] != '0' else '1'}"
    said = [repr(Credentials(token=good))]
    for token in (good, bad):
        with bench.client(token) as client:
            try:
                said.append(repr(client.who_am_i()))
                client.pause("x")
            except errors.CallFailed as error:
                said.append(str(error))
    secret = good.split("_", 2)[2][:20]
    told = " ".join([*said, caplog.text, *(repr(event) for event in bench.store.events())])
    assert secret not in told
    assert secret not in repr(bench.store.access.tokens())


def test_off_loopback_the_port_does_not_open_unprotected(
    start: Start, tls_files: Tls, tmp_path: Path
) -> None:
    with pytest.raises(Unprotected, match="has no TLS: give --tls-cert"):
        start(settings=PortSettings(host="0.0.0.0"))
    server_only = replace(tls_files, client_ca_file=None)
    with pytest.raises(Unprotected, match="anabranch token create"):
        start(settings=PortSettings(host="0.0.0.0", tls=server_only))
    # A file of identities proves nothing where no certificate is asked for.
    identities = tmp_path / "identities.yaml"
    identities.write_text("identities: {anyone: {role: admin}}")
    with pytest.raises(Unprotected):
        start(settings=PortSettings(host="0.0.0.0", tls=server_only, identities=identities))


def test_off_loopback_a_token_over_tls_lets_in(start: Start, tls_files: Tls, write: Write) -> None:
    tokens: list[str] = []
    bench = start(
        prepare=lambda bench: tokens.append(bench.token("ci", Role.OPERATOR)),
        settings=PortSettings(host="0.0.0.0", tls=replace(tls_files, client_ca_file=None)),
    )
    with bench.client(tokens[0], ca_file=tls_files.client_ca_file) as client:
        assert client.apply(write()).outcome == "created"
    with bench.client(None, ca_file=tls_files.client_ca_file) as client, pytest.raises(errors.NotKnown):
        client.who_am_i()
    # In plain text there is no answer at all.
    with raw(bench) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/WhoAmI")(b"", timeout=20)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_is_what_its_name_is_given(start: Start, tls_files: Tls, tmp_path: Path) -> None:
    identities = tmp_path / "identities.yaml"
    identities.write_text("identities: {client: {role: operator, models: [m]}}")
    bench = start(settings=PortSettings(host="0.0.0.0", tls=tls_files, identities=identities))
    own = {
        "ca_file": tls_files.client_ca_file,
        "certificate_file": TLS / "client.pem",
        "key_file": TLS / "client.key",
    }
    with bench.client(**own) as client:
        caller = client.who_am_i()
        assert (caller.actor, caller.role, caller.models) == ("certificate:client", "operator", ("m",))
        identities.write_text("identities: {somebody-else: {role: admin}}")
        bench.port.refresh()
        with pytest.raises(errors.NotKnown):
            client.who_am_i()
        # A broken file changes nothing.
        identities.write_text("identities: {client: {role: emperor}}")
        bench.port.refresh()
        with pytest.raises(errors.NotKnown):
            client.who_am_i()
    with bench.client(ca_file=tls_files.client_ca_file) as client, pytest.raises(errors.Unavailable):
        client.who_am_i()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("identities: {a: {role: emperor}}", "identities.a.role"),
        ("identities: {}", "identities"),
        ("identities: {a: {role: admin, rights: all}}", "identities.a.rights"),
        ("[1]", "the file"),
        ("a: &a [*a]", "alias"),
    ],
)
def test_a_file_of_identities_with_problems_is_refused_with_all_of_them(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "identities.yaml"
    path.write_text(text)
    with pytest.raises(InvalidIdentities, match=said):
        read_identities(path)


def test_a_large_or_deep_document_is_refused_and_the_port_lives_on(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        with pytest.raises(errors.Invalid, match="at most"):
            client.apply("a: " + "x" * 100_000)
        with pytest.raises(errors.Invalid, match="nested"):
            client.apply("[" * 5_000)
        with pytest.raises(errors.Overloaded):
            client.apply("x" * (5 << 20))
        assert client.apply(write()).outcome == "created"


def test_bytes_that_are_no_message_are_refused(bench: Bench) -> None:
    with raw(bench) as channel:
        for method in METHODS:
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            with pytest.raises(grpc.RpcError) as raised:
                list(kind(f"/{SERVICE}/{method.name}")(b"\xff" * 100, timeout=20))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method.name


def test_a_client_that_never_speaks_holds_no_place_for_long(start: Start) -> None:
    settings = PortSettings(limits=replace(LIMITS, max_connections=2, handshake_timeout_s=0.2))
    bench = start(settings=settings)
    host, _, port = bench.address.partition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(2)]
    try:
        for each in silent:
            each.settimeout(20)
            # The server hangs up, after its own greeting at most.
            while each.recv(1024):
                pass
        with bench.client() as client:
            assert client.who_am_i().role == "admin"
    finally:
        for each in silent:
            each.close()


def test_calls_beyond_what_the_port_works_on_are_refused_at_once(start: Start) -> None:
    bench = start()
    held = threading.Event()
    begun = threading.Semaphore(0)

    def slow() -> list[Any]:
        begun.release()
        held.wait(20)
        return []

    bench.store.experiments = slow
    with raw(bench) as channel:
        listing = channel.unary_stream(f"/{SERVICE}/List")
        waiting = [listing(b"", timeout=20) for _ in range(64)]
        for _ in range(4):
            assert begun.acquire(timeout=20)
        eventually(lambda: bench.on_loop(waiting_at(bench)) == 64)
        client = bench.client()
        with pytest.raises(errors.Overloaded, match="try again"):
            client.experiments()
        held.set()
        for call in waiting:
            assert list(call) == []
        assert client.experiments() == []
        client.close()
    assert bench.port.refused["resource_exhausted"] == 1


def test_one_record_is_recomputed_at_a_time(
    start: Start, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = start()
    begun, held = threading.Event(), threading.Event()

    def slow(store: Any, name: str) -> Any:
        begun.set()
        held.wait(20)
        return verify(store, name)

    monkeypatch.setattr(verbs_module, "verify", slow)
    with bench.client() as client, ThreadPoolExecutor(1) as pool:
        client.apply(write())
        first = pool.submit(client.verify, "exp")
        assert begun.wait(20)
        with pytest.raises(errors.Overloaded, match="another record"):
            client.verify("exp")
        held.set()
        assert first.result(20).matches
        assert client.verify("exp").matches


async def waiting_at(bench: Bench) -> int:
    return int(bench.port._service.desk._waiting)


SECRET_PATH = "services/T0/B0/a-key-of-its-own"


def with_webhooks(document: dict[str, Any], last: int = 20) -> dict[str, Any]:
    """A document with an address in each place that has one."""
    told = {"url": f"https://hooks.example.com/{SECRET_PATH}?key=1"}
    document["spec"]["gates"] = [{"name": "g", "type": "confirm-traffic-increase", "webhook": dict(told)}]
    document["spec"]["notifications"] = [{"name": "chat", "format": "slack", "webhook": dict(told)}]
    document["spec"]["steps"] += [{"gate": {"name": "look", "webhook": dict(told)}}, {"setWeight": last}]
    return document


def test_a_viewer_sees_no_address_of_a_webhook_in_any_answer(start: Start, write: Write) -> None:
    bench = start()
    admin, viewer = bench.token("root", Role.ADMIN), bench.token("eve", Role.VIEWER)
    with bench.client(admin) as client:
        client.apply(with_webhooks(write()))
        bench.tick()
        # A changed document waits, and then another one was taken.
        client.apply(with_webhooks(write(), 25))
        bench.tick()
        client.apply(with_webhooks(write(), 30))
        assert SECRET_PATH in json.dumps(client.get("exp").document)
        assert SECRET_PATH in str(client.get("exp").pending)
    fields = {"name": "exp", "experiment": "exp", "model": "m", "with_state": True}
    fields["document"] = json.dumps(write())
    answers: dict[str, list[bytes]] = {}
    shut: set[grpc.StatusCode] = set()
    with raw(bench) as channel:
        for method in METHODS:
            kind = GetMessageClass(method.input_type)
            known = {field.name for field in method.input_type.fields}
            message = kind(**{name: value for name, value in fields.items() if name in known})
            metadata = [("authorization", f"Bearer {viewer}")]
            path = f"/{SERVICE}/{method.name}"
            try:
                if method.server_streaming:
                    stream = channel.unary_stream(path)(
                        message.SerializeToString(), metadata=metadata, timeout=20
                    )
                    # A watch does not end.
                    found = [next(stream)] if method.name == "Watch" else list(stream)
                    stream.cancel()
                else:
                    found = [
                        channel.unary_unary(path)(message.SerializeToString(), metadata=metadata, timeout=20)
                    ]
            except grpc.RpcError as error:
                shut.add(error.code())
                continue
            answers[method.name] = found
    assert shut <= {*SHUT_OUT, grpc.StatusCode.FAILED_PRECONDITION}
    assert {"Get", "List", "Describe", "Watch", "Specs", "Events", "Diff", "Decisions"} <= answers.keys()
    for name, found in answers.items():
        assert SECRET_PATH.encode() not in b"".join(found), name
    with bench.client(viewer) as client:
        document = client.get("exp").document
        assert "hooks.example.com/hidden-from-viewers" in json.dumps(document)
        assert client.verify("exp").matches, "the server recomputes from what it has"
        lines = "\n".join(client.diff(with_webhooks(write(), 25)))
        assert "url" not in lines, "what is hidden on both sides is no difference"


def test_one_caller_leaves_room_for_the_watches_of_others(start: Start, write: Write) -> None:
    bench = start()
    admin = bench.token("root", Role.ADMIN)
    greedy, other = bench.token("greedy", Role.VIEWER), bench.token("other", Role.VIEWER)
    with bench.client(admin) as client:
        client.apply(write())
    watch = pb.WatchRequest(name="exp").SerializeToString()

    def opened(channel: grpc.Channel, token: str) -> Any:
        method: Any = channel.unary_stream(f"/{SERVICE}/Watch")
        return method(watch, metadata=[("authorization", f"Bearer {token}")], timeout=60)

    with raw(bench) as channel:
        open_ones = [opened(channel, greedy) for _ in range(MOST_OF_ONE)]
        assert all(next(stream) for stream in open_ones)
        with pytest.raises(grpc.RpcError) as refused:
            next(opened(channel, greedy))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "watches of yours" in str(refused.value)
        theirs = opened(channel, other)
        assert next(theirs)
        open_ones[0].cancel()

        def has_room() -> bool:
            try:
                return bool(next(opened(channel, greedy)))
            except grpc.RpcError:
                return False

        eventually(has_room)
        for stream in (*open_ones, theirs):
            stream.cancel()
