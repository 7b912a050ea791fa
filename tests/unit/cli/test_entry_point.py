import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from typer.testing import CliRunner

from anabranch.bandit.lifecycle import IllegalTransition
from anabranch.cli.exit_codes import MEANINGS, ExitCode
from anabranch.cli.failures import CommandFailed, explain
from anabranch.cli.main import assemble
from anabranch.cli.terminal import PIPE_WIDTH, system_terminal
from anabranch.store.document import InvalidDocument
from anabranch.store.port import Conflict, NotFound

HEAVY = (
    "alembic",
    "grpc",
    "ngh2",
    "numpy",
    "onnx",
    "onnxruntime",
    "pydantic",
    "scipy",
    "sqlalchemy",
    "sqlmodel",
    "textual",
    "torch",
    "uvloop",
)


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the installed command as its users do."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("anabranch")), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def loaded_by(program: str) -> set[str]:
    """Names of the heavy packages that a program has loaded at its end."""
    code = f"import sys\n{program}\nprint(*({HEAVY!r} & sys.modules.keys()))".replace(
        repr(HEAVY), f"set({HEAVY!r})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(ran.stdout.splitlines()[-1].split()) if ran.stdout.strip() else set()


def test_the_entry_point_loads_nothing_heavy() -> None:
    assert loaded_by("import anabranch.cli.main; anabranch.cli.main.assemble()") == set()


def test_looking_loads_no_runtime_and_no_server() -> None:
    program = "import anabranch.cli.views, anabranch.cli.live, anabranch.cli.report, anabranch.store.sql"
    assert loaded_by(program) & {"grpc", "ngh2", "onnx", "onnxruntime", "textual", "torch", "uvloop"} == set()


def test_listing_and_asking_load_no_statistics() -> None:
    program = (
        "import anabranch.cli.loading, anabranch.cli.tables, anabranch.cli.requests, anabranch.store.sql"
    )
    assert "scipy" not in loaded_by(program)


def test_help_lists_the_verbs_and_every_exit_status() -> None:
    ran = command("--help", COLUMNS="100")
    assert ran.returncode == 0
    for verb in (
        "get",
        "describe",
        "history",
        "apply",
        "diff",
        "promote",
        "undo",
        "verify",
        "report",
        "schema",
    ):
        assert f" {verb} " in ran.stdout
    for code, meaning in MEANINGS.items():
        assert f"{code.value}  {meaning}" in ran.stdout
    assert set(MEANINGS) == set(ExitCode)


def test_a_pipe_gets_no_colours_and_results_alone_on_stdout(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/a.db"
    ran = command("get", "--store", store)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr.splitlines()[0] == f"error: no database at {tmp_path}/a.db"
    assert "\x1b" not in ran.stderr


def test_the_version_is_printed_both_ways() -> None:
    printed = [CliRunner().invoke(assemble(), [word]).stdout for word in ("version", "--version")]
    assert printed[0] == printed[1]
    assert printed[0].startswith("anabranch 0.")


def test_a_verb_that_is_nearly_right_is_corrected() -> None:
    ran = command("gte")
    assert ran.returncode == ExitCode.BAD_INPUT
    assert "there is no verb 'gte', did you mean get?" in ran.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidDocument(["spec: wrong"]), ExitCode.BAD_INPUT),
        (NotFound("no experiment"), ExitCode.NOT_FOUND),
        (Conflict("somebody saved"), ExitCode.CONFLICT),
        (IllegalTransition("cannot undo"), ExitCode.REFUSED),
        (CommandFailed(ExitCode.NOT_FOUND, "gone"), ExitCode.NOT_FOUND),
    ],
)
def test_a_domain_error_has_its_exit_status_and_its_message(error: Exception, code: ExitCode) -> None:
    failure = explain(error)
    assert failure is not None
    assert failure.code is code
    assert failure.message.splitlines()[-1].strip() == str(error).strip()


def test_an_error_nobody_expected_is_not_explained_away() -> None:
    assert explain(ZeroDivisionError("division by zero")) is None


def test_lines_on_a_pipe_are_never_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert system_terminal().out.width == PIPE_WIDTH


def test_brackets_in_a_table_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    table = Table()
    table.add_row("anabranch[torch]")
    system_terminal().show(table)
    assert "anabranch[torch]" in capsys.readouterr().out


def heavy_of_command(*words: str) -> set[str]:
    """The heavy packages that a command has loaded when it is through."""
    program = (
        "from anabranch.cli.main import assemble\n"
        f"try:\n    assemble()({list(words)!r})\nexcept SystemExit:\n    pass\nprint()"
    )
    return loaded_by(program)


@pytest.mark.parametrize("words", [("version",), ("--help",), ("get", "--help"), ("get",), ("get", "tiny")])
def test_a_light_verb_imports_nothing_that_it_does_not_need(words: tuple[str, ...], tmp_path: Path) -> None:
    given = [*words, *(["--store", f"sqlite:///{tmp_path}/none.db"] if words[-1] in ("get", "tiny") else [])]
    # The version tells which native code is there.
    assert heavy_of_command(*given) - {"ngh2"} == set()


@pytest.mark.parametrize(
    "words",
    [("get",), ("get", "-o", "json"), ("history", "tiny"), ("events",), ("events", "tiny", "-o", "yaml")],
)
def test_lists_and_logs_are_read_without_database_library_or_statistics(
    words: tuple[str, ...], live: Callable[..., None], shell: Any
) -> None:
    live(ticks=3)
    assert heavy_of_command(*words, "--store", shell.url) == set()


def test_the_view_of_an_experiment_loads_no_root_finder() -> None:
    code = "import sys, anabranch.cli.views; print('scipy.optimize' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "False"


@pytest.mark.parametrize("words", [("get", "tiny"), ("describe", "tiny"), ("report", "tiny")])
def test_one_experiment_is_read_without_a_database_library(
    words: tuple[str, ...], live: Callable[..., None], shell: Any
) -> None:
    live(ticks=3)
    heavy = heavy_of_command(*words, "--store", shell.url)
    assert heavy <= {"numpy", "scipy", "pydantic"}  # its intervals are computed anew
