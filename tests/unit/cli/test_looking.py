import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from rich.console import RenderableType
from typer.testing import CliRunner

from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.cli.row_views import experiment_row
from anabranch.cli.tables import experiments_table
from anabranch.store.document import parse
from anabranch.store.port import StoredDecision, StoredExperiment

Begin = Callable[..., None]
Shell = Any


def test_reading_never_creates_a_database(shell: Shell) -> None:
    for verb in (
        ("get",),
        ("get", "tiny"),
        ("describe", "tiny"),
        ("history", "tiny"),
        ("events",),
        ("verify", "tiny"),
    ):
        ran = shell(*verb)
        assert (ran.code, ran.out) == (3, "")
        assert f"no database at {shell.database}" in ran.err
        assert "anabranch serve" in ran.err
        assert not shell.database.exists()


def test_the_list_is_a_table(shell: Shell, live: Begin) -> None:
    live(ticks=3)
    shell.clock.at_s = 62.0
    ran = shell("get")
    header, row = ran.out.splitlines()
    assert not any(line.endswith(" ") for line in ran.out.splitlines())
    assert header.split() == ["NAME", "MODEL", "PHASE", "STEP", "LIVE", "WEIGHTS", "AGE"]
    assert row.split()[:3] == ["tiny", "digits", "Progressing"]
    assert "1/5 mirror 30% (1m02s)" in row
    assert row.split()[-1] == "1m02s"


def test_on_a_narrow_terminal_steps_and_weights_give_way(
    recorded: Callable[[str], tuple[StoredExperiment, list[StoredDecision]]],
    painted: Callable[[RenderableType, int, int], str],
) -> None:
    stored, _ = recorded("bandit")
    table = experiments_table([experiment_row(stored, parse(stored.document), 140.0)], 70)
    header, row = painted(table, 70, 24).splitlines()
    assert header.split()[-1] == "AGE"
    assert tuple(row.split()[:3]) == ("minilm-int8", "minilm", "Progressing")
    assert row.endswith("2m20s")
    assert "…" in row


def test_an_empty_store_says_how_to_begin_and_prints_an_empty_list(shell: Shell) -> None:
    shell.store().close()
    assert shell("get").err == "no experiments yet: create one with `anabranch apply -f FILE`\n"
    assert json.loads(shell("get", "-o", "json").out) == []


def test_json_and_yaml_print_the_same_view(shell: Shell, live: Begin) -> None:
    live(ticks=5)
    as_json = json.loads(shell("get", "tiny", "-o", "json").out)
    assert as_json == yaml.safe_load(shell("get", "tiny", "-o", "yaml").out)
    assert as_json["name"] == "tiny"
    assert [arm["name"] for arm in as_json["arms"]] == ["fp32", "int8", "kl"]


def test_one_experiment_is_drawn_with_its_tables(shell: Shell, live: Begin) -> None:
    live()
    ran = shell("get", "tiny")
    assert "tiny  ‖ Paused  model digits" in ran.out
    assert "✗ kl" in ran.out
    assert "waits for a person: `anabranch resume tiny`, `promote` or `abort`" in ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 120


def test_a_name_that_is_not_there_says_which_are(shell: Shell, live: Begin) -> None:
    live(ticks=1)
    ran = shell("get", "tinny")
    assert ran.code == 3
    assert ran.err == "error: no experiment 'tinny'; there are: tiny, did you mean tiny?\n"


def test_watching_ends_with_the_experiment(shell: Shell, live: Begin) -> None:
    live(commands={40: [Command(id=0, verb=Verb.ABORT, actor="ada")]})
    ran = shell("get", "-w")
    assert ran.code == 0
    assert ran.out.splitlines()[0].startswith("experiment tiny of model digits: Aborted")
    assert "aborted by ada: fp32 serves all traffic" in ran.out


def leave_undecided(shell: Shell) -> None:
    store = shell.store()
    kept = store.experiment("tiny")
    store.save(
        "tiny",
        expected=kept.state_version,
        state=replace(kept.state, phase=Phase.INCONCLUSIVE),
        evidence=Evidence(experiment="tiny"),
        decision=None,
    )
    store.close()


@pytest.mark.parametrize("output", ["table", "json"])
def test_watching_ends_undecided_and_says_what_a_person_can_do(
    output: str, shell: Shell, live: Begin
) -> None:
    live()
    shell.clock.on_wait = lambda _: leave_undecided(shell)
    ran = shell("get", "-w", "-o", output)
    assert ran.code == 0
    assert len(shell.clock.waits) == 1
    assert ran.err == (
        "tiny is Inconclusive and waits for a person: `anabranch promote tiny`, `retry` or `abort`\n"
    )


def test_watching_goes_on_while_a_request_is_unanswered(shell: Shell, live: Begin) -> None:
    live()
    leave_undecided(shell)
    shell("retry", "tiny")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    shell.clock.on_wait = interrupt
    assert shell("get", "tiny", "-w").code == 130


def test_watching_as_json_prints_a_line_for_each_change(shell: Shell, live: Begin) -> None:
    live(ticks=3)

    def change(wait: int) -> None:
        store = shell.store()
        if wait == 2:
            store.request("tiny", Verb.PAUSE, "", "ada", 9.0)
        if wait == 4:
            raise KeyboardInterrupt
        store.close()

    shell.clock.on_wait = change
    ran = shell("get", "tiny", "-w", "-o", "json", "--refresh", "0.5")
    assert ran.code == 130
    first, second = (json.loads(line) for line in ran.out.splitlines())
    assert first["requests"] == []
    assert second["requests"] == [{"verb": "pause", "argument": "", "actor": "ada"}]
    assert set(shell.clock.waits) == {0.5}


def test_watching_needs_one_experiment(shell: Shell, live: Begin, document: dict[str, Any]) -> None:
    live(ticks=1)
    store = shell.store()
    store.apply(
        {**document, "metadata": {"name": "other"}, "spec": {**document["spec"], "model": "m2"}}, "ada", 0.0
    )
    store.close()
    ran = shell("get", "-w")
    assert ran.code == 2
    assert "--watch follows one experiment; there are: other, tiny" in ran.err


def test_describe_gives_every_reason_in_a_sentence(shell: Shell, live: Begin) -> None:
    live()
    ran = shell("describe", "tiny")
    for sentence in (
        "Phase:        ‖ Paused",
        "2 ✓ setWeight 20%  done",
        "removed: fidelity",
        "top-1 agreement",
        "verdicts compare only outcomes from when the arms ran side by side",
        '"Evidence for X of Y": the outcomes are X times likelier',
        "a person: `anabranch resume tiny`, `promote` or `abort`",
        "phase: started with 2 candidates against fp32",
    ):
        assert sentence in ran.out
    assert "weights: weights" not in ran.out


def test_describe_shows_what_was_asked_and_not_answered(shell: Shell, live: Begin) -> None:
    live(ticks=3)
    shell("pause", "tiny")
    assert "pause by ada" in shell("describe", "tiny").out


@pytest.mark.parametrize("url", ["anabranch.db", "mysql://host/x", "sqlite:///", ""])
def test_a_store_that_is_no_url_says_what_one_is(url: str, shell: Shell) -> None:
    ran = shell("get", "--store", url)
    assert ran.code == 2
    assert "sqlite:///path/to/file.db, postgresql://user@host/name, or HOST:PORT of a server" in ran.err


def test_a_path_for_a_store_is_turned_into_the_url_that_was_meant(shell: Shell) -> None:
    assert "did you mean sqlite:///state/a.db?" in shell("get", "--store", "state/a.db").err


def test_a_file_that_is_no_database_is_reported_and_left_alone(shell: Shell) -> None:
    shell.database.write_text("not a database " * 100)
    ran = shell("get")
    assert ran.code == 1
    assert "file is not a database" in ran.err
    assert shell.database.read_text().startswith("not a database")


def test_a_server_that_is_down_is_reported_without_its_password(shell: Shell) -> None:
    ran = shell("get", "--store", "postgresql://ada:secret@127.0.0.1:1/x")
    assert ran.code in (1, 2)  # 2 where no PostgreSQL driver is installed
    assert "postgresql://ada@127.0.0.1:1/x" in ran.err
    assert "secret" not in ran.err


def test_names_are_completed(shell: Shell, live: Begin) -> None:
    from anabranch.cli.main import assemble

    live(ticks=1)
    asked = {
        "_ANABRANCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "anabranch get ti",
        "COMP_CWORD": "2",
        "ANABRANCH_STORE": shell.url,
    }
    result = CliRunner().invoke(assemble(), [], env=asked, prog_name="anabranch")
    assert result.stdout.split() == ["tiny"]
