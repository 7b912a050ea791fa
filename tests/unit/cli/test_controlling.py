"""`tick` and `controller` on a real store: what is decided, and what the exit status tells a CI job."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.variants.manifest import VERSION, Manifest, describe_files, save_manifest
from anabranch.variants.recipes import Engine

Shell = Any


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The manifests of the tiny experiment's variants."""
    root = tmp_path / "models"
    for variant in ("fp32", "int8", "kl"):
        folder = root / "digits" / variant
        folder.mkdir(parents=True)
        (folder / "m.onnx").write_bytes(b"x")
        manifest = Manifest(
            version=VERSION,
            model="digits",
            variant=variant,
            engine=Engine.ONNX,
            recipe={},
            artifact="m.onnx",
            files=describe_files(folder, ["m.onnx"]),
            signatures=(),
            outputs=(),
            text=None,
            sources={},
            tools={},
            cache_key="",
            size_bytes=1,
            build_s=0.0,
            parity=None,
            task=None,
            latency=(),
        )
        save_manifest(manifest, folder)
    return root


@pytest.fixture
def tick(shell: Shell, models: Path) -> Callable[..., Any]:
    return lambda *arguments: shell("tick", "--models", str(models), *arguments)


@pytest.fixture
def applied(shell: Shell, document: dict[str, Any]) -> None:
    store = shell.store()
    store.apply(document, "ada", 0.0)
    store.close()


def end(shell: Shell, phase: Phase) -> None:
    store = shell.store()
    kept = store.experiment("tiny")
    store.save(
        "tiny",
        expected=kept.state_version,
        state=replace(kept.state, phase=phase),
        evidence=Evidence(experiment="tiny"),
        decision=None,
    )
    store.close()


@pytest.mark.usefixtures("applied")
def test_a_tick_moves_experiments_on_and_says_what_it_decided(shell: Shell, tick: Callable[..., Any]) -> None:
    ran = tick()
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[1].split()[:3] == ["tiny", "Progressing", "holding"]
    assert "started with 2 candidates" in ran.out
    [view] = json.loads(tick("-o", "json").out)
    assert (view["phase"], view["outcome"]) == ("Progressing", "holding")


@pytest.mark.usefixtures("applied")
@pytest.mark.parametrize(
    ("phase", "code", "outcome"),
    [
        (Phase.PROMOTED, 0, "promoted"),
        (Phase.ROLLED_BACK, 10, "rolled back"),
        (Phase.ABORTED, 10, "rolled back"),
    ],
)
def test_an_ended_experiment_that_is_asked_about_tells_how_it_ended(
    shell: Shell, tick: Callable[..., Any], phase: Phase, code: int, outcome: str
) -> None:
    end(shell, phase)
    ran = tick("tiny", "--exit-code", "-o", "json")
    assert ran.code == code
    assert [view["outcome"] for view in json.loads(ran.out)] == [outcome]
    assert tick("tiny").code == 0, "without the option only an error is a failure"
    assert tick("--exit-code").code == 12, "among those that go on there is none"


@pytest.mark.usefixtures("applied")
def test_one_that_goes_on_is_holding_and_one_that_this_tick_ended_is_told(
    shell: Shell, tick: Callable[..., Any]
) -> None:
    assert tick("--exit-code").code == 11
    store = shell.store()
    store.request("tiny", Verb.ABORT, "", "ada", 1.0)
    store.close()
    ran = tick("--exit-code")
    assert ran.code == 10
    assert "aborted" in ran.out.lower()
    assert tick("--exit-code").code == 12


def test_without_experiments_there_is_nothing_to_do(shell: Shell, tick: Callable[..., Any]) -> None:
    shell.store().close()
    ran = tick("--exit-code")
    assert (ran.code, ran.out) == (12, "")
    assert "no experiment is going on" in ran.err


@pytest.mark.usefixtures("applied")
def test_a_tick_does_nothing_while_a_server_leads_and_lets_others_lead_afterwards(
    shell: Shell, tick: Callable[..., Any]
) -> None:
    store = shell.store()
    lease = store.replicas.lead("server#1", 60.0)
    ran = tick("--exit-code")
    assert ran.code == 4
    assert "server#1 leads on this store: nothing was done" in ran.err
    assert "--controller elsewhere" in ran.err
    assert store.experiment("tiny").state_version == 0
    assert lease is not None
    store.replicas.step_down(lease)
    assert tick().code == 0
    assert store.replicas.leader() is None
    store.close()


@pytest.mark.usefixtures("applied")
def test_what_a_tick_cannot_do_without_is_named(
    shell: Shell, tick: Callable[..., Any], tmp_path: Path
) -> None:
    ran = tick("tinny")
    assert ran.code == 3
    assert "did you mean tiny?" in ran.err
    ran = shell("tick", "--models", str(tmp_path / "none"))
    assert ran.code == 3
    assert "no variants in" in ran.err
    assert "pass --models" in ran.err


def test_a_lease_that_a_late_round_would_cost_is_refused(shell: Shell) -> None:
    ran = shell("controller", "--tick", "5", "--lease", "10")
    assert ran.code == 2
    assert "lease_s is 10 and tick_s 5: the lease must last at least 3 ticks" in ran.err
