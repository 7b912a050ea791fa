"""One set-up of logging for every process of a server: a line an event, as text or as JSON, safe to print and to parse.

What clients, variants and servers elsewhere wrote ends up in messages. So no character of it can begin a line of its own
or steer a terminal, a password in it is blanked, and what fails with every request is not written with every request.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, assert_never

import orjson


class LogFormat(StrEnum):
    """How lines are written: for people, or for a log collector."""

    TEXT = "text"
    JSON = "json"


MOST_ALIKE: Final = 20
"""Lines of one kind (the same place in the code) written within an interval; further ones are counted."""
INTERVAL_S: Final = 10.0
_MOST_KINDS: Final = 1024
# C0, DEL, C1, and what reorders or breaks lines in a terminal or an editor; a tab is harmless.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SECRETS: Final = (
    # user:password@ in a URL
    (re.compile(r"(://[^\s:/@]+:)[^\s@/]+@"), r"\1***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(?i)\b(password|passwd|secret|token|api[_-]?key)(\s*[=:]\s*)[^\s,;&'\")]+"), r"\1\2***"),
)
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def set_up_logging(form: LogFormat, role: str, **facts: int | str) -> None:
    """Write what this process logs to stderr.

    Args:
        form: How.
        role: What the process is: supervisor or worker.
        facts: What else tells it from others.
    """
    handler = logging.StreamHandler(sys.stderr)
    match form:
        case LogFormat.TEXT:
            handler.setFormatter(TextLines())
        case LogFormat.JSON:
            handler.setFormatter(JsonLines({"role": role, "pid": os.getpid(), **facts}))
        case _:
            assert_never(form)
    handler.addFilter(NotTooOften())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def harmless(text: str) -> str:
    """The text on one line, without characters that steer a terminal, and without secrets that are plain to see."""
    for pattern, blank in _SECRETS:
        text = pattern.sub(blank, text)
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    known = {0x0A: r"\n", 0x0D: r"\r"}.get(code)
    return known or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


class TextLines(logging.Formatter):
    """`time level logger message`; a traceback follows, indented, so that none of its lines passes for an entry."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        head = f"{self.formatTime(record)} {record.levelname} {record.name} {harmless(record.getMessage())}"
        trace = _trace(self, record)
        return "\n".join([head, *(f"    {harmless(line)}" for line in trace.split("\n"))]) if trace else head


class JsonLines(logging.Formatter):
    """One JSON object a line.

    Args:
        facts: What tells this process from others.
    """

    def __init__(self, facts: dict[str, int | str]) -> None:
        super().__init__()
        self._facts = facts

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": harmless(record.getMessage()),
            **self._facts,
        }
        # What a caller gave as `extra`: a request's id, a model, a variant.
        said |= {
            name: harmless(value) if isinstance(value, str) else value
            for name, value in record.__dict__.items()
            if name not in _STANDARD and not name.startswith("_")
        }
        if trace := _trace(self, record):
            said["exception"] = "\n".join(harmless(line) for line in trace.split("\n"))
        return orjson.dumps(said, default=str).decode()


class NotTooOften(logging.Filter):
    """Lets `MOST_ALIKE` lines of a kind through in an interval; the next one after it says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        kind = (record.name, record.pathname, record.lineno)
        begun, count = self._kinds.get(kind, (record.created, 0))
        left_out = 0
        if record.created - begun >= INTERVAL_S:
            left_out, begun, count = max(0, count - MOST_ALIKE), record.created, 0
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (begun, count + 1)
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out} more lines like it, left out)"
            record.args = ()
        return count < MOST_ALIKE


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    parts += [formatter.formatStack(record.stack_info)] if record.stack_info else []
    return "\n".join(parts)
