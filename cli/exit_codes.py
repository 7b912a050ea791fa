"""What the process's exit status says: one table for every verb, and for `--help`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of `anabranch`."""

    OK = 0
    FAILURE = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    CONFLICT = 4
    REFUSED = 5
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "it did not work, the message says why",
    ExitCode.BAD_INPUT: "the arguments or the document are wrong, every problem is listed",
    ExitCode.NOT_FOUND: "no such experiment, variant or database",
    ExitCode.CONFLICT: "somebody else's experiment or change is in the way",
    ExitCode.REFUSED: "not possible in the experiment's phase, or refused by the offline gate",
    ExitCode.INTERRUPTED: "interrupted",
}


def epilogue() -> str:
    """The table as the last paragraphs of `--help`."""
    rows = "\n\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
    return f"Exit status:\n\n{rows}"
