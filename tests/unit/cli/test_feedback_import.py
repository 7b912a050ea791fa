"""`feedback import`: files into outcomes, batch by batch, once each."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from anabranch.cli.failures import CommandFailed
from anabranch.cli.feedback.importing import Refused, import_rows
from anabranch.cli.feedback.progress import Progress, ProgressFile
from anabranch.cli.feedback.rows import Row, read_rows
from anabranch.client.errors import Unavailable
from anabranch.client.feedback import Outcome
from anabranch.client.values import FeedbackResult


def rows(path: Path, text: str, **changes: str) -> list[Row]:
    path.write_text(text, encoding="utf-8")
    return list(read_rows(path, **{"id_column": "assignment_id", "metric": "correct", **changes}))


def test_a_csv_file_gives_outcomes_of_every_kind(tmp_path: Path) -> None:
    found = rows(
        tmp_path / "a.csv",
        "assignment_id,metric,label,correct,value,note\na1,,3,,,x\na2,,,yes,,\na3,stars,,,4.5,\na4,,,0,,\n",
    )
    assert [row.outcome for row in found] == [
        Outcome(assignment_id="a1", label=3),
        Outcome(assignment_id="a2", correct=True),
        Outcome(assignment_id="a3", metric="stars", value=4.5),
        Outcome(assignment_id="a4", correct=False),
    ]
    assert [row.number for row in found] == [1, 2, 3, 4]


def test_json_lines_give_the_same(tmp_path: Path) -> None:
    lines = [
        {"id": "a1", "label": 3},
        {"id": "a2", "correct": False},
        {"id": "a3", "metric": "stars", "value": 4},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    found = rows(tmp_path / "a.jsonl", text, id_column="id", metric="mood")
    assert [row.outcome for row in found] == [
        Outcome(assignment_id="a1", metric="mood", label=3),
        Outcome(assignment_id="a2", metric="mood", correct=False),
        Outcome(assignment_id="a3", metric="stars", value=4.0),
    ]


def test_a_parquet_file_gives_the_same(tmp_path: Path) -> None:
    columns = {
        "assignment_id": ["a1", "a2", "a3", "a4", None],
        "metric": [None, None, "stars", None, None],
        # As a table of numbers writes a column with holes.
        "label": [3.0, math.nan, math.nan, 1.5, 1.0],
        "correct": [None, True, None, None, None],
        "value": [math.nan, math.nan, 4.5, math.nan, math.nan],
        "note": ["x", "", "", "", ""],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    found = list(read_rows(tmp_path / "a.parquet", id_column="assignment_id", metric="correct"))
    assert [row.outcome for row in found[:3]] == [
        Outcome(assignment_id="a1", label=3),
        Outcome(assignment_id="a2", correct=True),
        Outcome(assignment_id="a3", metric="stars", value=4.5),
    ]
    assert ["label is 1.5" in found[3].problem, "assignment_id is empty" in found[4].problem] == [True, True]
    assert [row.number for row in found] == [1, 2, 3, 4, 5]


def test_a_parquet_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"assignment_id": ["a"], "right": [True]}), tmp_path / "a.parquet")
    with pytest.raises(CommandFailed, match="none of the columns label, correct and value"):
        list(read_rows(tmp_path / "a.parquet", id_column="assignment_id", metric="correct"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"assignment_id": "a"}', "given: none"),
        ('{"assignment_id": "a", "label": 1, "value": 2}', "given: label, value"),
        ('{"label": 1}', "assignment_id is empty"),
        ('{"assignment_id": "a", "label": 1.5}', "label is 1.5, must be the number of a class"),
        ('{"assignment_id": "a", "label": true}', "label is True"),
        ('{"assignment_id": "a", "correct": "maybe"}', "correct is 'maybe', must be one of 0, 1, false"),
        ('{"assignment_id": "a", "value": "much"}', "value is 'much', must be a number"),
        ("[1]", "the line is no object: [1]"),
        ("{", "the line is no JSON"),
    ],
)
def test_a_row_that_is_no_outcome_says_why_and_stops_nobody(tmp_path: Path, line: str, problem: str) -> None:
    bad, good = rows(tmp_path / "a.jsonl", line + '\n{"assignment_id": "b", "label": 1}\n')
    assert bad.outcome is None
    assert problem in bad.problem
    assert good.outcome == Outcome(assignment_id="b", label=1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,label\n", "has no column 'assignment_id', it has: id, label"),
        ("a.csv", "assignment_id,right\n", "none of the columns label, correct and value"),
        ("a.txt", "", "a.txt ends with '.txt': .csv, .jsonl, .ndjson and .parquet are read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_whole(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(CommandFailed, match=message):
        rows(tmp_path / name, text)


class Server:
    """Remembers what it took; takes nothing while it is down."""

    def __init__(self) -> None:
        self.took: list[str] = []
        self.calls = 0
        self.down_for: set[int] = set()

    def submit(self, outcomes: Sequence[Outcome]) -> list[FeedbackResult]:
        self.calls += 1
        if self.calls in self.down_for:
            raise Unavailable("no server answers", "UNAVAILABLE")
        self.took += [outcome.assignment_id for outcome in outcomes]
        return [
            FeedbackResult(
                accepted=each.assignment_id != "forged", problem="forged!" * (each.assignment_id == "forged")
            )
            for each in outcomes
        ]


class Clock:
    def __init__(self) -> None:
        self.at_s = 0.0

    def now(self) -> float:
        return self.at_s

    def wait(self, seconds: float) -> None:
        self.at_s += seconds


def labelled(number: int, identifier: str | None = None) -> Row:
    return Row(number=number, outcome=Outcome(assignment_id=identifier or f"a{number}", label=1))


@pytest.fixture
def run() -> Callable[..., tuple[Server, Progress, list[Refused], list[int]]]:
    def run(
        given: Sequence[Row], done: Progress | None = None, server: Server | None = None, **changes: Any
    ) -> tuple[Server, Progress, list[Refused], list[int]]:
        server, done = server or Server(), done or Progress()
        refused: list[Refused] = []
        saved: list[int] = []
        import_rows(
            given,
            done,
            submit=server.submit,
            save=lambda each: saved.append(each.rows),
            refuse=refused.append,
            clock=Clock(),
            **{"batch_rows": 2, "patience_s": 10.0, **changes},
        )
        return server, done, refused, saved

    return run


Run = Callable[..., tuple[Server, Progress, list[Refused], list[int]]]


def test_every_row_is_sent_once_and_what_is_acknowledged_is_saved(run: Run) -> None:
    server, done, refused, saved = run([labelled(number) for number in range(1, 6)])
    assert server.took == ["a1", "a2", "a3", "a4", "a5"]
    assert saved == [2, 4, 5]
    assert (done.accepted, done.refused, refused) == ({"correct": 5}, 0, [])


def test_rows_are_refused_for_themselves(run: Run) -> None:
    given = [labelled(1), Row(number=2, problem="no id"), labelled(3, "forged"), labelled(4)]
    server, done, refused, _ = run(given)
    assert server.took == ["a1", "forged", "a4"]
    assert (done.accepted, done.refused) == ({"correct": 2}, 2)
    assert [(row.row, row.problem) for row in refused] == [(2, "no id"), (3, "forged!")]


def test_an_import_goes_on_after_what_was_acknowledged(run: Run) -> None:
    done = Progress(rows=4, accepted={"correct": 3}, refused=1)
    server, done, _, _ = run([labelled(number) for number in range(1, 8)], done)
    assert server.took == ["a5", "a6", "a7"]
    assert (done.rows, done.accepted, done.refused) == (7, {"correct": 6}, 1)


def test_a_server_that_is_down_for_a_while_is_asked_again(run: Run) -> None:
    server = Server()
    server.down_for = {2, 3, 4}
    server, done, _, _ = run([labelled(number) for number in range(1, 5)], server=server)
    assert server.took == ["a1", "a2", "a3", "a4"]
    assert done.rows == 4


def test_a_server_that_stays_down_ends_the_import_with_what_is_done(run: Run) -> None:
    server = Server()
    server.down_for = set(range(2, 100))
    done = Progress()
    with pytest.raises(CommandFailed, match="took nothing for 10 s") as failed:
        run([labelled(number) for number in range(1, 5)], done, server)
    assert failed.value.advice.startswith("2 rows are done")
    assert done.rows == 2


def test_progress_is_that_of_the_same_file_and_arguments_only(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("one")
    kept = ProgressFile(path, {"metric": "correct"})
    kept.save(Progress(rows=7, accepted={"correct": 6}, refused=1))
    assert ProgressFile(path, {"metric": "correct"}).load() == Progress(
        rows=7, accepted={"correct": 6}, refused=1
    )
    assert ProgressFile(path, {"metric": "stars"}).load() == Progress()
    path.write_text("another")
    assert ProgressFile(path, {"metric": "correct"}).load() == Progress()
    kept.path.write_text("{")
    assert kept.load() == Progress()
    kept.remove()
    assert not list(tmp_path.glob("*.import"))
