"""Sends the outcomes of a file, batch by batch; what was acknowledged is on the server's disk and is not sent again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from anabranch.cli.clock import Clock
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.cli.feedback.progress import Progress
from anabranch.cli.feedback.rows import Row
from anabranch.client.errors import Overloaded, TookTooLong, Unavailable
from anabranch.client.feedback import Outcome
from anabranch.client.values import FeedbackResult

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0

Submit = Callable[[Sequence[Outcome]], Sequence[FeedbackResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that does not count, and why."""

    row: int
    assignment_id: str
    problem: str


def import_rows(
    rows: Iterable[Row],
    done: Progress,
    *,
    submit: Submit,
    save: Callable[[Progress], None],
    refuse: Callable[[Refused], None],
    clock: Clock,
    batch_rows: int,
    patience_s: float,
) -> None:
    """Send all rows that are not done yet; `done` grows with every acknowledged batch.

    Args:
        rows: All rows of the file.
        done: What an earlier run did.
        submit: Sends outcomes; answers for each.
        save: Called after each acknowledged batch.
        refuse: Called for every row that does not count.
        clock: For the pauses between attempts.
        batch_rows: Rows a call.
        patience_s: How long a server that cannot take a batch is asked again.

    Raises:
        CommandFailed: The server did not take a batch for so long; what was done before is kept.
    """
    left = itertools.islice(rows, done.rows, None)
    while batch := list(itertools.islice(left, batch_rows)):
        outcomes = [row.outcome for row in batch if row.outcome is not None]
        results = iter(_submit(outcomes, submit, clock, patience_s, done) if outcomes else ())
        for row in batch:
            if row.outcome is None:
                problem = row.problem
            else:
                result = next(results)
                problem = "" if result.accepted else result.problem
            if problem:
                done.refused += 1
                identifier = "" if row.outcome is None else row.outcome.assignment_id
                refuse(Refused(row=row.number, assignment_id=identifier, problem=problem))
            else:
                assert row.outcome is not None
                done.accepted[row.outcome.metric] = done.accepted.get(row.outcome.metric, 0) + 1
        done.rows += len(batch)
        save(done)


def _submit(
    outcomes: list[Outcome], submit: Submit, clock: Clock, patience_s: float, done: Progress
) -> Sequence[FeedbackResult]:
    """Send a batch until it is acknowledged: sent twice, an outcome counts once."""
    give_up, pause_s = clock.now() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            results = submit(outcomes)
        except (Unavailable, Overloaded, TookTooLong) as error:
            if clock.now() + pause_s > give_up:
                raise CommandFailed(
                    ExitCode.FAILURE,
                    f"the server took nothing for {patience_s:g} s: {error}",
                    f"{done.rows} rows are done; run the same command again to go on from there",
                ) from error
            clock.wait(pause_s)
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
            continue
        if len(results) != len(outcomes):
            raise CommandFailed(
                ExitCode.FAILURE, f"the server answered {len(results)} of {len(outcomes)} outcomes"
            )
        return results
