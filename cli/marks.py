"""The marks and colours of phases, steps, variants and verdicts: one meaning each, readable without colour."""

from __future__ import annotations

from anabranch.cli.view_types import ArmState, StepState

PHASE_MARKS = {
    "Pending": "○",
    "Progressing": "●",
    "Paused": "‖",
    "Inconclusive": "?",
    "Promoting": "▲",
    "Promoted": "★",
    "RolledBack": "↩",
    "Aborted": "■",
}
PHASE_STYLES = {
    "Pending": "dim",
    "Progressing": "cyan",
    "Paused": "yellow",
    "Inconclusive": "yellow",
    "Promoting": "bold cyan",
    "Promoted": "bold green",
    "RolledBack": "red",
    "Aborted": "red",
}
STEP_MARKS = {
    StepState.DONE: "✓",
    StepState.CURRENT: "●",
    StepState.WAITING: "○",
    StepState.SKIPPED: "↷",
    StepState.STOPPED: "■",
}
STEP_STYLES = {
    StepState.DONE: "green",
    StepState.CURRENT: "bold cyan",
    StepState.WAITING: "dim",
    StepState.SKIPPED: "dim",
    StepState.STOPPED: "red",
}
ARM_MARKS = {
    ArmState.BASELINE: "◇",
    ArmState.LIVE: "●",
    ArmState.WINNER: "★",
    ArmState.REMOVED: "✗",
    ArmState.WAITING: "○",
}
ARM_STYLES = {
    ArmState.BASELINE: "",
    ArmState.LIVE: "",
    ArmState.WINNER: "bold green",
    ArmState.REMOVED: "dim",
    ArmState.WAITING: "dim",
}
VERDICT_MARKS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "…", "ERROR": "!"}
VERDICT_STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "", "ERROR": "yellow"}

_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int) -> str:
    """A share in [0, 1] as a bar of `width` characters, exact to an eighth of one; what is not 0 is visible."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    if share > 0:
        eighths = max(1, eighths)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)
