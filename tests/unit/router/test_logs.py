"""The log of a server: what strangers write into it stays inside its line."""

import logging
import sys
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.router.logs import (
    INTERVAL_S,
    MOST_ALIKE,
    JsonLines,
    LogFormat,
    NotTooOften,
    TextLines,
    harmless,
    set_up_logging,
)

FORGED = (
    "it broke\n2026-01-01 00:00:00,000 INFO anabranch.router.serve promoted by root\r\x1b[2J\u2028\u202e\x85"
)


def record(
    message: str = "%s", *values: object, created: float = 0.0, line: int = 1, **extra: object
) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "anabranch.x", "msg": message, "args": values, "levelname": "WARNING", "created": created}
    )
    made.pathname, made.lineno = "x.py", line
    made.__dict__.update(extra)
    return made


@given(st.text())
def test_no_text_can_begin_a_line_or_steer_a_terminal(text: str) -> None:
    line = TextLines().format(record("%s", text))
    assert len(line.splitlines()) == 1
    assert all(
        character == "\t" or character.isprintable() or character.isspace() or ord(character) > 0x9F
        for character in line
    )
    assert "\x1b" not in line
    said = JsonLines({}).format(record("%s", text))
    assert len(said.splitlines()) == 1
    assert isinstance(orjson.loads(said)["message"], str)


def test_a_forged_entry_stays_inside_its_line_and_can_still_be_read() -> None:
    line = TextLines().format(record("variant a: %s", FORGED))
    assert line.count("\n") == 0
    assert r"it broke\n2026-01-01" in line
    assert r"\r\x1b[2J\u2028\u202e\x85" in line


def test_the_lines_of_a_traceback_pass_for_no_entry() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        failed = record("request failed")
        failed.exc_info = sys.exc_info()
    head, *rest = TextLines().format(failed).split("\n")
    assert head.endswith("WARNING anabranch.x request failed")
    assert all(line.startswith("    ") for line in rest)
    assert any("ValueError: it broke" in line for line in rest)
    said = orjson.loads(JsonLines({}).format(failed))
    assert "ValueError: it broke" in said["exception"]


def test_json_has_the_process_and_what_the_caller_said_more() -> None:
    lines = JsonLines({"role": "worker", "lane": 3})
    said = orjson.loads(lines.format(record("the handler failed", request_id="a\nb", created=1.5)))
    assert said == {
        "time": "1970-01-01T00:00:01.500+00:00",
        "level": "warning",
        "logger": "anabranch.x",
        "message": "the handler failed",
        "role": "worker",
        "lane": 3,
        "request_id": r"a\nb",
    }


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("postgresql://ada:hunter2@db/x is away", "postgresql://ada:***@db/x is away"),
        ("authorization: Bearer abcdefgh12345678", "authorization: Bearer ***"),
        ("the token=abc.def was refused", "the token=*** was refused"),
        ("127.0.0.1:8001 and http://host:8001/metrics", "127.0.0.1:8001 and http://host:8001/metrics"),
        ("first token after 3 ms", "first token after 3 ms"),
    ],
)
def test_a_secret_that_is_plain_to_see_is_blanked(text: str, written: str) -> None:
    assert harmless(text) == written


def test_what_fails_with_every_request_is_not_written_with_every_request() -> None:
    often = NotTooOften()
    written = [often.filter(record("it broke: %d", n)) for n in range(MOST_ALIKE + 30)]
    assert written == [True] * MOST_ALIKE + [False] * 30
    assert often.filter(record("something else", line=2)), "another place in the code has its own count"
    late = record("it broke: %d", 99, created=INTERVAL_S)
    assert often.filter(late)
    assert late.getMessage() == "it broke: 99 (and 30 more lines like it, left out)"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)
    logging.captureWarnings(False)


def test_a_process_says_which_it_is(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LogFormat.JSON, "worker", lane=7)
    logging.getLogger("anabranch.x").info("serving")
    (line,) = capsys.readouterr().err.splitlines()
    said = orjson.loads(line)
    assert (said["message"], said["level"], said["role"], said["lane"]) == ("serving", "info", "worker", 7)
    assert said["pid"] > 0
