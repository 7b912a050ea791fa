import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anabranch.bandit.validation import registry
from anabranch.bandit.validation.checks import Cell, Check, Trial, not_run, number_check
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.main import assemble

ROW = ("simulate", "--short", "--only", "V14")


def run(*arguments: str, status: int = ExitCode.OK) -> str:
    """Standard output of a run."""
    ran = CliRunner().invoke(assemble(), list(arguments))
    assert ran.exit_code == status, ran.output + str(ran.exception)
    return ran.stdout


def test_json_has_one_row_a_check_with_its_seed() -> None:
    rows = json.loads(run(*ROW, "--seed", "7", "-o", "json"))
    assert {row["row"] for row in rows} == {"V14"}
    assert all(
        {"name", "value", "bound", "target", "ok", "replications", "rivals"} <= row.keys() for row in rows
    )
    assert {row["seed"] for row in rows} == {7}
    assert all(row["ok"] for row in rows)


def test_a_table_says_what_holds_and_what_others_do() -> None:
    shown = CliRunner().invoke(assemble(), [*ROW])
    assert "chi-squared at .05, repeated" in shown.stdout
    assert "7 of 7 checks hold" in shown.stderr


def test_finished_cells_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.jsonl"
    first = run(*ROW, "--resume", str(file), "-o", "json")
    lines = file.read_text().splitlines()
    # As if the run had been interrupted while it wrote its last line.
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    run_again: list[str] = []

    def watched(key: str, *arguments: object, **named: object) -> tuple[Check, ...]:
        run_again.append(key)
        return registry.run_cell(key, *arguments, **named)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr("anabranch.cli.simulating.run_cell", watched)
    assert json.loads(run(*ROW, "--resume", str(file), "-o", "json")) == json.loads(first)
    assert run_again == [json.loads(lines[-1])["cell"]]
    assert {json.loads(line).get("cell") for line in file.read_text().splitlines()} == {
        json.loads(line).get("cell") for line in lines
    }


def test_results_of_other_replications_are_run_again(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    first = run(*ROW, "--resume", str(file), "-o", "json")
    head, *records = [json.loads(line) for line in file.read_text().splitlines()]
    records[0] |= {"replications": 3, "checks": []}
    file.write_text("".join(json.dumps(line) + "\n" for line in (head, *records)))
    again = CliRunner().invoke(assemble(), [*ROW, "--resume", str(file), "-o", "json"])
    assert json.loads(again.stdout) == json.loads(first)
    assert f"4/4 {records[0]['cell']}" in again.stderr


def test_two_processes_find_what_one_finds() -> None:
    assert json.loads(run(*ROW, "-o", "json", "--jobs", "2")) == json.loads(run(*ROW, "-o", "json"))


def test_results_of_another_seed_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    run(*ROW, "--resume", str(file), "-o", "json")
    ran = CliRunner().invoke(assemble(), [*ROW, "--seed", "8", "--resume", str(file)])
    assert ran.exit_code == ExitCode.BAD_INPUT
    assert "holds results of seed 2026, not 8" in ran.stderr


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no results\n")
    ran = CliRunner().invoke(assemble(), [*ROW, "--resume", str(file)])
    assert ran.exit_code == ExitCode.BAD_INPUT
    assert file.read_text() == "no results\n"


def test_an_unknown_row_is_refused_with_those_there_are() -> None:
    ran = CliRunner().invoke(assemble(), ["simulate", "--only", "V77"])
    assert ran.exit_code == ExitCode.BAD_INPUT
    assert "rows ['V77'] do not exist: the suite has V1, V2" in ran.stderr


def test_a_missed_target_is_the_exit_status_and_one_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missed(_trial: Trial) -> tuple[Check, ...]:
        return (number_check("V14", "too many", 2.0, 1.0), not_run("V14", "too far", 1.0, "no oracle"))

    cells = (Cell(row="V14", name="bad", run=missed, long=1, short=1),)
    monkeypatch.setattr(registry, "CELLS", cells)
    ran = CliRunner().invoke(assemble(), [*ROW])
    assert ran.exit_code == ExitCode.FAILURE
    assert "0 of 2 checks hold; 1 do not: V14 too many; 1 not run: V14 too far" in ran.stderr
