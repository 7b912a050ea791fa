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
    NOT_ALLOWED = 6
    ROLLED_BACK = 10
    HOLDING = 11
    NOTHING_TO_DO = 12
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "it did not work, the message says why",
    ExitCode.BAD_INPUT: "the arguments or the document are wrong, every problem is listed",
    ExitCode.NOT_FOUND: "no such experiment, variant or database",
    ExitCode.CONFLICT: "somebody else's experiment or change is in the way",
    ExitCode.REFUSED: "not possible in the experiment's phase, or refused by the offline gate",
    ExitCode.NOT_ALLOWED: "the server does not know you, or your role does not allow it",
    ExitCode.ROLLED_BACK: "`tick --exit-code`: an experiment was rolled back or aborted",
    ExitCode.HOLDING: "`tick --exit-code`: an experiment goes on; 0 means promoted",
    ExitCode.NOTHING_TO_DO: "`tick --exit-code`: no experiment is going on",
    ExitCode.INTERRUPTED: "interrupted",
}


def epilogue() -> str:
    """The table as the last paragraphs of `--help`."""
    rows = "\n\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
    return f"Exit status:\n\n{rows}"
