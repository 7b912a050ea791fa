import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.store.ledger_port import Catalog

Begin = Callable[..., None]
Shell = Any


def test_applying_creates_the_database_and_the_experiment(shell: Shell, document_file: Path) -> None:
    ran = shell("apply", "-f", str(document_file))
    assert (ran.code, ran.out) == (0, "experiment tiny created\n")
    assert f"creating the database {shell.database}" in ran.err
    assert "follow it with `anabranch get tiny -w`" in ran.err
    assert [(event.actor, event.verb) for event in shell.store().events()] == [("ada", "apply")]


def test_applying_again_changes_nothing(shell: Shell, document_file: Path) -> None:
    shell("apply", "-f", str(document_file))
    ran = shell("apply", "-f", str(document_file))
    assert (ran.code, ran.out, ran.err) == (0, "experiment tiny unchanged\n", "")
    assert shell.store().experiment("tiny").spec_version == 1


def test_a_document_can_come_from_stdin(shell: Shell, document_file: Path) -> None:
    assert shell("apply", "-f", "-", typed=document_file.read_text()).out == "experiment tiny created\n"


def test_applying_says_when_the_names_in_the_document_are_checked(shell: Shell, document_file: Path) -> None:
    ran = shell("apply", "-f", str(document_file))
    assert "that tick also checks that the model and variants named in it are served" in ran.err


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("phase", "way"),
    [
        (Phase.PROGRESSING, "let it end or abort it"),
        (Phase.PAUSED, "promote, resume or abort it"),
        (Phase.INCONCLUSIVE, "promote, retry or abort it"),
    ],
)
def test_a_model_that_is_taken_says_how_it_becomes_free(
    phase: Phase, way: str, dry: list[str], shell: Shell, live: Begin, document_file: Path
) -> None:
    live(ticks=1)
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
    other = document_file.read_text().replace("name: tiny", "name: second")
    ran = shell("apply", "-f", "-", *dry, typed=other)
    assert ran.code == 4
    assert f"model digits already has experiment tiny, which is {phase}: {way}" in ran.err


def test_every_problem_is_listed_with_its_path(shell: Shell, document_file: Path) -> None:
    text = document_file.read_text().replace("setWeight: 20", "setWeight: 70").replace("min: 0.9", "mim: 0.9")
    document_file.write_text(text.replace("baseline: fp32", "baseline: int8"))
    ran = shell("apply", "-f", str(document_file))
    assert (ran.code, ran.out) == (2, "")
    assert "has 3 problems:" in ran.err
    assert "spec.metrics[1].mim: unknown field, did you mean min?" in ran.err
    assert "spec.candidates: int8 is the baseline" in ran.err
    assert "spec.steps[1].setWeight: 70 % for each of 2 candidates is over 100 %" in ran.err
    assert not shell.database.exists()


def test_a_file_that_is_missing_or_not_yaml_is_bad_input(shell: Shell, tmp_path: Path) -> None:
    assert shell("apply", "-f", str(tmp_path / "none.yaml")).code == 2
    (tmp_path / "broken.yaml").write_text("a: [")
    ran = shell("apply", "-f", str(tmp_path / "broken.yaml"))
    assert ran.code == 2
    assert "not valid YAML" in ran.err


def test_a_dry_run_says_what_would_happen_and_writes_nothing(shell: Shell, document_file: Path) -> None:
    ran = shell("apply", "-f", str(document_file), "--dry-run")
    assert (ran.code, ran.out) == (0, "experiment tiny created (dry run)\n")
    assert not shell.database.exists()
    shell("apply", "-f", str(document_file))
    assert (
        shell("apply", "-f", str(document_file), "--dry-run").out == "experiment tiny unchanged (dry run)\n"
    )


def test_a_dry_run_refuses_what_applying_would_refuse(shell: Shell, live: Begin, document_file: Path) -> None:
    live(ticks=3)
    changed = document_file.read_text().replace("spec:\n", "spec:\n  delta: 0.1\n")
    other = document_file.read_text().replace("name: tiny", "name: second")
    for text, reason in (
        (changed, "spec.delta restarts the evidence: abort it and apply the document again"),
        (other, "already has experiment tiny"),
    ):
        dry = shell("apply", "-f", "-", "--dry-run", typed=text)
        real = shell("apply", "-f", "-", typed=text)
        assert dry.code == real.code == 4
        assert dry.err == real.err
        assert reason in dry.err


def test_what_is_still_to_come_changes_while_the_experiment_goes_on(
    shell: Shell, live: Begin, document_file: Path
) -> None:
    live(ticks=1)
    text = document_file.read_text().replace("spec:\n", "spec:\n  minAge: 1h\n")
    dry = shell("apply", "-f", "-", "--dry-run", typed=text)
    assert dry.out == "experiment tiny asked to go on with this document (dry run)\n"
    ran = shell("apply", "-f", "-", typed=text)
    assert ran.out == "experiment tiny asked to go on with this document\n"
    assert "the evidence is kept" in ran.err
    assert [asked.verb for asked in shell.store().pending("tiny")] == [Verb.REVISE]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_what_is_not_served_is_refused_with_every_name_and_what_was_meant(
    dry: list[str], shell: Shell, document_file: Path
) -> None:
    shell.store().ledger.save_catalog(
        Catalog(
            variants={"tiny": {"fp32": "x → y", "int8": "x → z", "mixed": "x → y"}},
            webhook_hosts=(),
            at_s=1.0,
        )
    )
    text = yaml.safe_load(document_file.read_text())
    text["spec"]["model"] = "tiny"
    text["spec"]["baseline"] = "fp32"
    text["spec"]["candidates"] = ["int8", "mixd"]
    text["spec"]["notifications"] = [{"name": "chat", "webhook": {"url": "https://hooks.example.com/x"}}]
    ran = shell("apply", "-f", "-", *dry, typed=json.dumps(text))
    assert ran.code == 5
    assert "spec.candidates: 'mixd' is not served, did you mean mixed?" in ran.err
    assert "spec.candidates: int8 takes and gives x → z, the baseline fp32 x → y" in ran.err
    assert "chat: the server may not send to hooks.example.com" in ran.err
    assert shell("apply", "-f", "-", "--force", *dry, typed=json.dumps(text)).code == 0


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_experiment_against_a_baseline_that_was_replaced_does_not_begin_unasked(
    dry: list[str], shell: Shell, document_file: Path
) -> None:
    document = yaml.safe_load(document_file.read_text())
    model, baseline = document["spec"]["model"], document["spec"]["baseline"]
    shell.store().set_baseline(model, "better", 1.0)
    ran = shell("apply", "-f", str(document_file), *dry)
    assert ran.code == 5
    assert f"spec.baseline: {baseline} is not what serves {model} now, that is better" in ran.err
    assert shell.store().experiments() == []
    assert shell("apply", "-f", str(document_file), "--force", *dry).code == 0
    shell.store().set_baseline(model, baseline, 2.0)
    assert shell("apply", "-f", str(document_file), *dry).code == 0


def test_an_override_is_in_the_audit_log(shell: Shell, document_file: Path) -> None:
    model = yaml.safe_load(document_file.read_text())["spec"]["model"]
    shell.store().set_baseline(model, "better", 1.0)
    shell("apply", "-f", str(document_file), "--force")
    [event] = shell.store().events("tiny")
    assert "a baseline that was replaced" in event.detail


def test_an_experiment_that_is_over_begins_anew_with_a_changed_document(
    shell: Shell, live: Begin, document_file: Path
) -> None:
    live(commands={2: [Command(id=0, verb=Verb.ABORT, actor="ada")]})
    document_file.write_text(document_file.read_text().replace("setWeight: 20", "setWeight: 10"))
    ran = shell("apply", "-f", str(document_file))
    assert ran.out == "experiment tiny configured\n"
    assert shell.store().experiment("tiny").spec_version == 2


def test_a_difference_is_unified_and_ignores_layout(shell: Shell, document_file: Path) -> None:
    shell("apply", "-f", str(document_file))
    document_file.write_text(json.dumps(yaml.safe_load(document_file.read_text())))
    same = shell("diff", "-f", str(document_file), "--exit-code")
    assert (same.code, same.out) == (0, "")
    assert "tiny is applied as it is" in same.err
    document_file.write_text(document_file.read_text().replace('"setWeight": 20', '"setWeight": 10'))
    ran = shell("diff", "-f", str(document_file))
    assert ran.code == 0
    assert "-  - setWeight: 20\n+  - setWeight: 10\n" in ran.out
    assert ran.out.startswith("--- tiny (applied)\n+++ ")
    assert shell("diff", "-f", str(document_file), "--exit-code").code == 1


def test_a_document_that_was_never_applied_differs_in_every_line(shell: Shell, document_file: Path) -> None:
    ran = shell("diff", "-f", str(document_file))
    assert ran.out.startswith("--- nothing applied\n")
    assert not shell.database.exists()


def test_the_schema_is_of_the_document(shell: Shell) -> None:
    schema = json.loads(shell("schema").out)
    assert schema["title"] == "ExperimentDocument"
    assert "apiVersion" in schema["properties"]
