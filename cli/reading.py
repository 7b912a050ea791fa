"""Read the experiment document that a person names, with every problem at once."""

from __future__ import annotations

import sys
from pathlib import Path

from anabranch.bandit.spec import Experiment
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, problem_list
from anabranch.store.document import InvalidDocument, parse, read_document


def read_experiment(file: str) -> Experiment:
    """The experiment in a file; `-` is stdin.

    Raises:
        CommandFailed: If it cannot be read, or has problems; lists every one.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"there is no file {file}", "`anabranch init MODEL` writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(ExitCode.BAD_INPUT, f"cannot read {file}: {error}") from error
    try:
        return parse(read_document(text))
    except InvalidDocument as error:
        raise CommandFailed(
            ExitCode.BAD_INPUT,
            problem_list(file, error.problems),
            "`anabranch schema` prints what is allowed",
        ) from error
