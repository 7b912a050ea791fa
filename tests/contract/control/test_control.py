"""What people ask over the control port, as the typed clients ask it; on both wires."""

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from anabranch.client import errors
from anabranch.client.aio import AsyncClient
from anabranch.proto import control_pb2 as pb
from anabranch.router.control.verbs import Served
from anabranch.store.document import parse
from anabranch.store.verify import verify
from anabranch.variants.recipes import Device, Engine

Bench = Any
Write = Callable[..., dict[str, Any]]


def test_an_experiment_is_applied_shown_and_listed(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        assert client.apply(write(), dry_run=True).outcome == "created"
        assert bench.store.experiments() == []
        applied = client.apply(write())
        assert (applied.name, applied.outcome) == ("exp", "created")
        assert client.apply(json.dumps(write())).outcome == "unchanged"
        found = client.get("exp")
        assert (found.model, found.baseline, found.candidates) == ("m", "base", ("a", "b"))
        assert (found.phase, found.step, found.steps) == ("Pending", 0, 2)
        assert found.document == write()
        assert [each.name for each in client.experiments()] == ["exp"]
        assert client.experiments(model="other") == []


def test_the_audit_log_names_the_caller_and_not_a_claim(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        client.pause("exp")
        told = [(event.actor, event.verb) for event in client.events("exp")]
    assert told == [("anonymous ipv4:127.0.0.1", "apply"), ("anonymous ipv4:127.0.0.1", "pause")]


def test_a_request_waits_for_the_tick_that_answers_it(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        bench.tick()
        asked = client.abort("exp")
        assert client.get("exp").pending == (asked,)
        bench.tick()
        decision = client.wait(asked)
        assert decision.phase == "Aborted"
        assert asked.id in decision.handled
        assert client.get("exp").is_over


def test_a_refused_request_is_answered_with_the_reason(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        bench.tick()
        asked = client.resume("exp")
        bench.tick()
        assert "refused" in client.wait(asked).summary


def test_a_watch_shows_every_change_and_ends_with_the_experiment(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        seen = client.watch("exp", timeout_s=30)
        assert next(seen).phase == "Pending"
        bench.tick()
        assert next(seen).phase == "Progressing"
        client.abort("exp")
        bench.tick()
        phases = [experiment.phase for experiment in seen]
        assert phases[-1] == "Aborted"


def test_decisions_are_those_of_the_store_and_chain_on(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        for _ in range(3):
            bench.tick()
        client.abort("exp")
        bench.tick()
        decisions = client.decisions("exp")
        kept = bench.store.decisions("exp")
        assert [decision.hash for decision in decisions] == [each.hash for each in kept]
        assert decisions[-1].previous_hash == decisions[-2].hash
        assert client.decisions("exp", after=decisions[-2].number) == [decisions[-1]]
        described = client.describe("exp", decisions=1)
        assert described.decisions == (decisions[-1],)
        assert described.experiment == client.get("exp")


def test_the_log_goes_on_over_a_document_that_was_taken_in_flight(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        for _ in range(2):
            bench.tick()
        client.pause("exp")
        bench.tick()
        seen = client.decisions("exp")[-1]
        changed = write()
        changed["spec"]["minAge"] = "1h"
        client.apply(changed)
        bench.tick()
        client.resume("exp")
        bench.tick()
        kept = bench.store.decisions("exp")
        assert len({each.spec_version for each in kept}) == 2
        after = client.decisions("exp", after=seen.number - 1)
        assert [each.number for each in after] == [
            each.decision.number for each in kept if each.decision.number >= seen.number
        ]
        assert after[0] == seen


def test_the_log_after_a_number_is_of_the_applied_document_only(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        for _ in range(2):
            bench.tick()
        client.abort("exp")
        bench.tick()
        client.apply(_stricter(write()))
        assert client.decisions("exp", after=1) == []
        bench.tick()
        client.pause("exp")
        bench.tick()
        assert [each.spec_version for each in client.decisions("exp", after=1)] == [2]


def test_who_served_a_model_when_is_told(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        assert client.tenures("m") == []
        bench.store.set_baseline("m", "base", 5.0)
        [tenure] = client.tenures("m")
        assert (tenure.model, tenure.variant, tenure.since_s, tenure.experiment, tenure.decision) == (
            "m",
            "base",
            5.0,
            "",
            0,
        )


def test_an_experiment_against_a_baseline_that_was_replaced_does_not_begin_unasked(
    bench: Bench, write: Write
) -> None:
    with bench.client() as client:
        bench.store.set_baseline("m", "better", 5.0)
        for dry_run in (True, False):
            with pytest.raises(errors.Refused, match="base is not what serves m now, that is better"):
                client.apply(write(), dry_run=dry_run)
        assert client.apply(write(), force=True).outcome == "created"
        # What goes on is not asked again.
        assert client.apply(write()).outcome == "unchanged"


def test_the_server_recomputes_and_so_can_the_caller(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        bench.tick()
        bench.tick()
        found = client.verify("exp")
        here = verify(bench.store, "exp")
        assert (found.matches, found.head) == (True, here.head)
        assert len(list(client.evidence("exp"))) == len(bench.store.evidence_log("exp"))


def test_a_difference_is_shown_by_lines(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        assert client.diff(write()) == ()
        lines = client.diff(write(weight=20))
        assert "+  - setWeight: 20" in lines


def _stricter(document: dict[str, Any]) -> dict[str, Any]:
    """A change that would restart the evidence."""
    document["spec"]["delta"] = 0.01
    return document


def test_the_list_of_variants_says_their_prices(bench: Bench) -> None:
    shown: dict[str, Any] = {
        name: SimpleNamespace(
            engine=Engine.ONNX,
            device=Device.CPU,
            recipe={"name": "fp32"},
            size_bytes=1,
            gate=None,
            cache_key="k",
            task=None,
            parity=None,
            latency=(),
            generation=None,
            hourly_price=price,
        )
        for name, price in (("base", 2.5), ("a", None))
    }
    bench.served = Served(manifests={"m": shown}, baselines={"m": "base"})
    with bench.client() as client:
        assert {each.name: each.hourly_price for each in client.variants()} == {"base": 2.5, "a": None}


@pytest.mark.parametrize(
    ("ask", "kind", "said"),
    [
        (
            lambda client, write: client.get("nothing"),
            errors.NotFound,
            "no experiment 'nothing'; there are: exp",
        ),
        (lambda client, write: client.apply("a: ["), errors.Invalid, "not valid YAML"),
        (lambda client, write: client.apply({"kind": "x"}), errors.Invalid, "apiVersion"),
        (lambda client, write: client.apply(_stricter(write())), errors.Conflict, "abort it and apply"),
        (lambda client, write: client.apply(write("two")), errors.Conflict, "exp"),
        (lambda client, write: client.promote("exp", "zzz"), errors.Invalid, "candidates are a, b"),
        (lambda client, write: client.variants(), errors.Refused, "serves no variants"),
        (lambda client, write: list(client.watch("nothing")), errors.NotFound, "there are: exp"),
        (lambda client, write: client.decisions("nothing"), errors.NotFound, "there are: exp"),
    ],
)
def test_an_error_says_what_was_given_and_what_is_allowed(
    bench: Bench, write: Write, ask: Any, kind: type[Exception], said: str
) -> None:
    with bench.client() as client:
        client.apply(write())
        with pytest.raises(kind) as raised:
            ask(client, write)
        assert said in str(raised.value)


def test_an_unexpected_error_is_logged_under_an_id_and_says_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(bench.store, "experiments", broken)
    with bench.client() as client, pytest.raises(errors.CallFailed) as raised:
        client.experiments()
    said = str(raised.value)
    assert "hunter2" not in said
    number = said.removeprefix("internal error ").partition(":")[0]
    assert number in caplog.text
    assert "hunter2" in caplog.text


def test_the_asyncio_client_asks_the_same(bench: Bench, write: Write) -> None:
    async def converse() -> list[str]:
        async with AsyncClient(bench.address) as client:
            await client.apply(write())
            bench.tick()
            phases = []
            async for experiment in client.watch("exp"):
                phases.append(experiment.phase)
                if experiment.phase == "Progressing":
                    asked = await client.abort("exp")
                    bench.tick()
                    decision = await client.wait(asked)
                    assert decision.phase == "Aborted"
            assert [each.name for each in await client.experiments()] == ["exp"]
            assert (await client.who_am_i()).server_version == "1.2.3"
            return phases

    phases = asyncio.run(converse())
    assert phases[0] == "Progressing"
    assert phases[-1] == "Aborted"


def test_the_salt_of_an_experiment_never_leaves(bench: Bench, write: Write) -> None:
    with bench.client() as client:
        client.apply(write())
        bench.tick()
        shown = client.get("exp", with_state=True)
    stored = bench.store.experiment("exp")
    assert shown.state_json
    assert stored.salt.hex() not in repr(shown) + shown.state_json
    assert parse(shown.document) == parse(stored.document)


def test_prices_come_from_the_served_variants_and_a_missing_one_is_refused(
    bench: Bench, write: Write
) -> None:
    told = write()
    told["spec"]["metrics"].append({"name": "cost", "source": "cost_per_1k", "role": "signal"})
    variants: dict[str, Any] = {
        name: SimpleNamespace(signatures=(), outputs=(), gate=None, hourly_price=price)
        for name, price in (("base", 2.0), ("a", 0.5), ("b", None))
    }
    bench.served = Served(manifests={"m": variants}, baselines={"m": "base"})
    with bench.client() as client:
        with pytest.raises(
            errors.Refused, match=r"b has no price of an hour.*anabranch variants price m b NUMBER"
        ):
            client.apply(told)
        variants["b"].hourly_price = 1.0
        assert client.apply(told).outcome == "created"
        variants["b"].hourly_price = 9.0
        assert client.apply(told).outcome == "unchanged"
        assert client.diff(told) == ()
    kept = bench.store.experiment("exp").document["spec"]
    assert kept["hourlyPrices"] == {"base": 2.0, "a": 0.5, "b": 1.0}


def refusal(bench: Bench, path: str, message: bytes, *, streams: bool) -> grpc.RpcError:
    """How the port refuses a message."""
    with grpc.insecure_channel(bench.address) as channel:
        call: Any = (channel.unary_stream if streams else channel.unary_unary)(
            f"/anabranch.v1.ControlService/{path}"
        )
        with pytest.raises(grpc.RpcError) as refused:
            list(call(message, timeout=30))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return refused.value


@pytest.mark.parametrize(("path", "streams"), [("Apply", False), ("List", True), ("Watch", True)])
def test_a_field_that_the_server_does_not_know_is_refused_and_nothing_is_done(
    bench: Bench, write: Write, path: str, streams: bool
) -> None:
    newer = bytes([0x98, 0x06, 1])  # field 99, as a release to come may have it
    asked = pb.ApplyRequest(document=json.dumps(write())) if path == "Apply" else pb.ListRequest()
    error = refusal(bench, path, asked.SerializeToString() + newer, streams=streams)
    assert f"{path}Request has field 99" in (error.details() or "")
    assert bench.store.experiments() == []


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("Describe", pb.DescribeRequest(name="exp", decisions=-1), "decisions is -1"),
        ("Decisions", pb.DecisionsRequest(name="exp", after=-2), "after is -2"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    bench: Bench, write: Write, path: str, asked: Any, told: str
) -> None:
    bench.store.apply(write(), "ada", bench.now)
    error = refusal(bench, path, asked.SerializeToString(), streams=path == "Decisions")
    assert told in (error.details() or "")
