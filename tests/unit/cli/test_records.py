import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch.bandit.decision import Command, Verb
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.lifecycle import Phase
from anabranch.bandit.step import tick
from anabranch.cli.decision_views import decision_views
from anabranch.cli.output import plain
from anabranch.cli.report import report
from anabranch.cli.view_types import ExperimentView
from anabranch.store.document import parse
from anabranch.store.packing import pack, unpack
from anabranch.store.port import StoredDecision, StoredExperiment
from anabranch.store.verify import verify

Begin = Callable[..., None]
Shell = Any
Recorded = Callable[[str], tuple[StoredExperiment, list[StoredDecision]]]


def test_the_log_says_number_time_phase_and_why(shell: Shell, live: Begin) -> None:
    live()
    lines = shell("history", "tiny").out.splitlines()
    assert lines[0].split() == ["#", "TIME", "PHASE", "CHANGE", "WHY"]
    assert lines[1].split()[:4] == ["1", "1970-01-01T00:00:00Z", "Progressing", "phase"]
    assert lines[1].rstrip().endswith("started with 2 candidates against fp32")


def test_the_log_as_json_has_every_action_and_hash(shell: Shell, live: Begin) -> None:
    live()
    store = shell.store()
    kept = store.decisions("tiny")
    store.close()
    shown = json.loads(shell("history", "tiny", "-o", "json").out)
    assert shown == plain(decision_views(kept))
    assert json.loads(shell("history", "tiny", "-o", "json", "--last", "1").out) == shown[-1:]


def test_an_experiment_without_decisions_says_who_takes_them(shell: Shell, document_file: Path) -> None:
    shell("apply", "-f", str(document_file))
    ran = shell("history", "tiny")
    assert (ran.code, ran.out) == (0, "")
    assert "anabranch serve" in ran.err


def test_events_are_who_did_what(shell: Shell, live: Begin) -> None:
    live(ticks=3)
    shell("pause", "tiny")
    lines = shell("events", "tiny").out.splitlines()
    assert [line.split()[1:4] for line in lines[1:]] == [["ada", "tiny", "apply"], ["ada", "tiny", "pause"]]
    assert [event["verb"] for event in json.loads(shell("events", "-o", "json").out)] == ["apply", "pause"]
    assert shell("events", "tinny").code == 3


def test_a_whole_log_is_verified_with_its_head(shell: Shell, live: Begin) -> None:
    live()
    store = shell.store()
    kept = store.decisions("tiny")
    store.close()
    ran = shell("verify", "tiny")
    assert ran.code == 0
    assert f"{len(kept)} decisions, every hash follows from the one before it" in ran.out
    assert f"head {kept[-1].hash}" in ran.out


def test_every_verdict_is_recomputed_from_the_kept_evidence(shell: Shell, live: Begin) -> None:
    # Beyond the removal of kl, a pause and a promotion, to the end.
    live(
        commands={
            30: [Command(id=0, verb=Verb.RESUME, actor="ada")],
            50: [Command(id=0, verb=Verb.PROMOTE, actor="ada")],
        }
    )
    ran = shell("verify", "tiny")
    assert ran.code == 0
    assert " verdicts recomputed from the kept evidence" in ran.out
    assert "all the same" in ran.out
    assert "promote" in shell("events").out


def test_beginning_again_begins_the_recomputation_again(shell: Shell, live: Begin) -> None:
    live(
        commands={
            5: [Command(id=0, verb=Verb.RETRY, actor="ada")],
            20: [Command(id=0, verb=Verb.ABORT, actor="ada")],
            25: [Command(id=0, verb=Verb.RETRY, actor="ada")],
            45: [Command(id=0, verb=Verb.ABORT, actor="ada")],
        }
    )
    ran = shell("verify", "tiny")
    assert ran.code == 0, ran.err
    assert "started again by ada" in shell("history", "tiny").out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE evidence SET packed = changed(packed)", "the evidence gives"),
        ("UPDATE evidence SET packed = x'00'", "evidence is kept that cannot be read"),
        ("DELETE FROM evidence WHERE last IN (SELECT last FROM evidence LIMIT 3)", "the evidence gives"),
    ],
)
def test_changed_or_removed_evidence_is_found(damage: str, said: str, shell: Shell, live: Begin) -> None:
    def changed(packed: bytes) -> bytes:
        return pack(unpack("", packed).replace('_agreement":{"0":', '_agreement":{"0":1'))

    live()
    with sqlite3.connect(shell.database) as database:
        database.create_function("changed", 1, changed)
        assert database.execute(damage).rowcount > 0
    ran = shell("verify", "tiny")
    assert ran.code == 1
    assert said in ran.err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            "UPDATE decision SET body = replace(body, 'started', 'begun') WHERE number = 1",
            "decision 1 of spec version 1",
        ),
        ("DELETE FROM decision WHERE number = 2", "decision 3 of spec version 1"),
        ("DELETE FROM decision WHERE number = (SELECT max(number) FROM decision)", "the state counts"),
        ("DELETE FROM decision", "the state counts"),
    ],
)
def test_a_changed_or_removed_decision_is_named(damage: str, said: str, shell: Shell, live: Begin) -> None:
    live()
    with sqlite3.connect(shell.database) as database:
        database.execute(damage)
    ran = shell("verify", "tiny")
    assert ran.code == 1
    assert "the record of tiny has" in ran.err
    assert said in ran.err


def test_what_cannot_be_read_back_is_reported_and_not_traced(shell: Shell, live: Begin) -> None:
    live()
    with sqlite3.connect(shell.database) as database:
        database.execute("UPDATE decision SET body = replace(body, '}', '')")
    ran = shell("verify", "tiny")
    assert ran.code == 1
    assert "the store holds something that cannot be read" in ran.err


def test_a_tick_in_the_middle_of_the_reading_is_read_again(
    shell: Shell, live: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    live()
    store = shell.store()
    read_decisions = store.decisions

    def decisions_then_a_tick(name: str) -> list[StoredDecision]:
        found: list[StoredDecision] = read_decisions(name)
        kept = store.experiment(name)
        if kept.state.phase is not Phase.ABORTED:
            nothing = Evidence(experiment=name)
            asked = (store.request(name, Verb.ABORT, "", "ada", 999.0),)
            result = tick(parse(kept.document), kept.state, nothing, asked, 999.0)
            store.save(
                name,
                expected=kept.state_version,
                state=result.state,
                evidence=nothing,
                decision=result.decision,
            )
        return found

    monkeypatch.setattr(store, "decisions", decisions_then_a_tick)
    found = verify(store, "tiny")
    assert found.matches
    assert found.decisions[-1].number == store.experiment("tiny").state.decisions
    assert store.experiment("tiny").state.phase is Phase.ABORTED
    store.close()


def test_an_experiment_without_decisions_has_nothing_to_verify(shell: Shell, document_file: Path) -> None:
    shell("apply", "-f", str(document_file))
    ran = shell("verify", "tiny")
    assert (ran.code, ran.out) == (0, "tiny: no decisions yet, nothing to verify\n")


def test_the_report_tells_the_story(
    recorded: Recorded, view_of: Callable[[str, float], ExperimentView], golden: Callable[[str, str], None]
) -> None:
    stored, decisions = recorded("promoted")
    golden(
        "promoted.report.md", report(view_of("promoted", 300.0), decision_views(decisions), stored.document)
    )


def test_the_report_can_be_written_to_a_file(shell: Shell, live: Begin, tmp_path: Path) -> None:
    live(ticks=4)
    page = tmp_path / "reports" / "tiny.md"
    ran = shell("report", "tiny", "--file", str(page))
    assert (ran.code, ran.out, ran.err) == (0, "", f"wrote {page}\n")
    assert page.read_text() == shell("report", "tiny").out
    assert page.read_text().startswith("# tiny: Progressing\n")


def test_a_report_that_cannot_be_written_says_why(shell: Shell, live: Begin, tmp_path: Path) -> None:
    live(ticks=2)
    (tmp_path / "file").write_text("")
    ran = shell("report", "tiny", "--file", str(tmp_path / "file" / "tiny.md"))
    assert ran.code == 1
    assert "cannot write" in ran.err
