"""`init` and `doctor` of a server, over its control port, as somebody asks who has nothing else of it."""

import dataclasses
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anabranch.cli.main import assemble
from anabranch.cli.remote_surgery import examine_server
from anabranch.cli.surgery import Grade
from anabranch.client.sync import Client
from anabranch.router.control.verbs import Served
from anabranch.store.access import Role
from anabranch.store.document import parse, read_document
from anabranch.variants.manifest import MANIFEST, Manifest, read_manifest

Bench = Any
Write = Callable[..., dict[str, Any]]


def manifest(folder: Path, variant: str, agreement: float | None, gate: str = "") -> Manifest:
    told: dict[str, Any] = {
        "version": 1,
        "model": "m",
        "variant": variant,
        "engine": "onnx",
        "recipe": {"name": "fp32"},
        "artifact": "model.onnx",
        "files": [{"path": "model.onnx", "sha256": "0" * 64, "size_bytes": 1}],
        "signatures": [],
        "outputs": [],
        "text": None,
        "sources": {},
        "tools": {},
        "cache_key": "k",
        "size_bytes": 1,
        "build_s": 0.1,
        "parity": None,
        "task": None,
        "latency": [{"batch_size": 1, "p50_ms": 2.5, "p95_ms": 3.0, "calls": 10, "threads": 1}],
        "gate": None,
    }
    if agreement is not None:
        told["parity"] = {
            "reference": "base",
            "requests": 500,
            "max_abs": 0.1,
            "top1_agreement": agreement,
            "cosine_tensor": "out",
            "cosine_mean": 0.99,
            "cosine_min": 0.9,
        }
    if gate:
        numbers = ("margin", "estimate", "low", "high", "log_e_pass", "log_e_fail", "log_need")
        told["gate"] = {
            **dict.fromkeys(numbers, 0.1),
            "outcome": gate,
            "metric": "accuracy",
            "requests": 500,
            "reason": "it is worse",
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(told), encoding="utf-8")
    return read_manifest(folder)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    made = {
        name: manifest(tmp_path / name, name, agreement, gate)
        for name, agreement, gate in (("base", None, ""), ("a", 0.97, ""), ("b", 0.5, "FAIL"))
    }
    return Served(manifests={"m": made}, baselines={"m": "base"})


def run(*words: str) -> tuple[int, str, str]:
    ran = CliRunner().invoke(assemble(), list(words))
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, ran.stdout, ran.stderr


def test_a_document_is_written_from_what_a_server_serves_and_applied_there(
    bench: Bench, served: Served
) -> None:
    bench.served = served
    code, text, said = run("init", "m", "--server", bench.address)
    assert code == 0, said
    experiment = parse(read_document(text))
    assert (experiment.baseline, experiment.candidates) == ("base", ("a",))
    assert "b is left out: it failed the offline gate (it is worse)" in text
    assert "Measured offline: 97.0% of 500 requests for a" in text
    assert "The baseline takes 2.5 ms a call offline." in text
    with bench.client() as client:
        assert client.apply(text).outcome == "created"


def test_a_model_that_a_server_does_not_serve_is_said_with_those_it_serves(
    bench: Bench, served: Served
) -> None:
    bench.served = served
    code, _, said = run("init", "n", "--server", bench.address)
    assert code == 3
    assert f"{bench.address} serves no model 'n'; it serves: m" in said


def test_a_server_is_examined_from_afar(bench: Bench, served: Served, write: Write) -> None:
    bench.served = served
    bench.store.apply(write(), "ada", bench.now)
    findings = {each.check: each for each in examine_server(bench.address, bench.now)}
    assert list(findings) == ["connection", "caller", "release", "variants", "experiments", "clock"]
    assert findings["connection"].grade is not Grade.BAD
    assert "anonymous" in findings["caller"].found
    # The port of the test says that it is of release 1.2.3.
    assert (findings["release"].grade, "1.2.3 there" in findings["release"].found) == (Grade.POOR, True)
    assert "3 of m; failed the offline gate: m/b" in findings["variants"].found
    assert findings["experiments"].found == "1 experiments, 1 not over"
    assert findings["clock"].grade is Grade.GOOD
    code, text, _ = run("doctor", "--server", bench.address)
    assert code == 0 or "in the future" in text


def test_a_clock_that_is_behind_the_servers_is_found(bench: Bench, write: Write) -> None:
    bench.store.apply(write(), "ada", bench.now)
    findings = {each.check: each for each in examine_server(bench.address, bench.now - 60)}
    assert findings["clock"].grade is Grade.BAD
    assert "1m in the future" in findings["clock"].found
    # It serves nothing: a controller on its own does not.
    assert findings["variants"].grade is Grade.POOR
    assert "serves no variants" in findings["variants"].found


def test_an_experiment_that_waits_for_people_is_named(
    bench: Bench, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.store.apply(write(), "ada", bench.now)
    real = Client.experiments

    def inconclusive(self: Client, *given: Any, **named: Any) -> Any:
        return [dataclasses.replace(each, phase="Inconclusive") for each in real(self, *given, **named)]

    monkeypatch.setattr(Client, "experiments", inconclusive)
    findings = {each.check: each for each in examine_server(bench.address, bench.now)}
    assert findings["experiments"].found.endswith("Inconclusive: exp")


def test_no_server_is_one_finding_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text, said = run("doctor", "--server", nobody, "-o", "json")
    assert code == 1
    (finding,) = json.loads(text)
    assert (finding["check"], finding["grade"]) == ("connection", "bad")
    assert "anabranch serve --control-port" in finding["advice"]
    assert "1 of 1 checks failed" in said


def test_somebody_unknown_is_told_how_to_log_in(bench: Bench) -> None:
    with_wrong_token = {"ANABRANCH_TOKEN": bench.token("ci", Role.VIEWER)[:-4] + "abcd"}
    ran = CliRunner().invoke(assemble(), ["doctor", "--server", bench.address], env=with_wrong_token)
    assert ran.exit_code == 1
    assert "anabranch login" in ran.stdout


def test_whoever_is_known_sees_as_whom(bench: Bench) -> None:
    env = {"ANABRANCH_TOKEN": bench.token("ci", Role.VIEWER)}
    ran = CliRunner().invoke(assemble(), ["doctor", "--server", bench.address], env=env)
    assert "you are token:ci, viewer: " in ran.stdout
