"""Errors as people meet them: what was given, what is allowed, what to do; and the exit status of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from anabranch.cli.exit_codes import ExitCode


class CommandFailed(Exception):
    """A command cannot do what was asked.

    Args:
        code: The exit status.
        message: What was given and what is allowed.
        advice: What to do; empty when the message says it.
    """

    def __init__(self, code: ExitCode, message: str, advice: str = "") -> None:
        self.code = code
        self.message = message
        self.advice = advice
        super().__init__(message)


_CODES = {
    "anabranch.store.document.InvalidDocument": ExitCode.BAD_INPUT,
    "anabranch.store.port.NotFound": ExitCode.NOT_FOUND,
    "anabranch.store.port.Conflict": ExitCode.CONFLICT,
    "anabranch.store.migrate.SchemaMismatch": ExitCode.CONFLICT,
    "anabranch.router.shared_key.KeyMismatch": ExitCode.CONFLICT,
    "anabranch.bandit.lifecycle.IllegalTransition": ExitCode.REFUSED,
    "anabranch.variants.errors.VariantError": ExitCode.REFUSED,
    "sqlalchemy.exc.OperationalError": ExitCode.FAILURE,
    "sqlite3.DatabaseError": ExitCode.FAILURE,
    "pydantic_core._pydantic_core.ValidationError": ExitCode.FAILURE,
}
"""Domain errors by name: importing them here would load the store for `--help`."""


def explain(error: Exception) -> CommandFailed | None:
    """A domain error as a failure of the command; None for an error nobody expected."""
    if isinstance(error, CommandFailed):
        return error
    for kind in type(error).__mro__:
        code = _CODES.get(f"{kind.__module__}.{kind.__qualname__}")
        if code is ExitCode.BAD_INPUT:
            return CommandFailed(code, problem_list("the document", getattr(error, "problems", [str(error)])))
        if code is ExitCode.FAILURE and kind.__qualname__ == "ValidationError":
            return CommandFailed(
                code,
                f"the store holds something that cannot be read: {error}",
                "it was damaged, or written by a newer release of anabranch",
            )
        if code is ExitCode.FAILURE:
            reason = str(getattr(error, "orig", None) or error)
            return CommandFailed(code, f"the store failed: {reason}", "try again; nothing was half-written")
        if code is not None:
            return CommandFailed(code, str(error.args[0]) if error.args else str(error))
    return None


def problem_list(what: str, problems: Iterable[str]) -> str:
    """Every problem at once, one a line."""
    listed = list(problems)
    number = "1 problem" if len(listed) == 1 else f"{len(listed)} problems"
    return "\n".join([f"{what} has {number}:", *(f"  {problem}" for problem in listed)])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean X?` when a known name is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ""
