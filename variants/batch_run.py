"""Run one batch: together, and each request alone when that fails, so that a bad one does not fail its neighbours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from anabranch.variants.batching import Answer, Failure, FailureKind, Ticket, Timing
from anabranch.variants.errors import VariantError, VariantInputError
from anabranch.variants.tensors import Array, Request

Infer: TypeAlias = Callable[[Sequence[Request]], list[dict[str, Array]]]


@dataclass(slots=True, kw_only=True)
class Batch:
    """Tickets that run together.

    Args:
        infer: The variant's call.
        tickets: At least one.
        rows: Their rows in all.
        begun_s: When it was given to a thread.
        is_overdue: It runs for so long that its thread was replaced.
        results: One a ticket, once it has run.
    """

    infer: Infer
    tickets: list[Ticket]
    rows: int
    begun_s: float = 0.0
    is_overdue: bool = False
    results: list[Answer | Failure] = field(default_factory=list)

    def run(self, clock: Callable[[], float]) -> None:
        """Fill in the results; never raises. May be called on any thread.

        Args:
            clock: Seconds, the clock of the tickets' `submitted_s`.
        """
        requests = [ticket.inputs or {} for ticket in self.tickets]
        started = clock()
        try:
            outputs = self.infer(requests)
            _require_all(outputs, requests)
        except Exception as error:  # noqa: BLE001  # whatever a variant raises is charged to it, not to the process
            if len(requests) == 1:
                self.results = [
                    _failure(error, _timing(self.tickets[0], started, clock() - started, self.rows))
                ]
            else:
                self.results = [self._run_alone(ticket, clock) for ticket in self.tickets]
            return
        compute_s = clock() - started
        rows = self.rows
        self.results = [
            Answer(output, Timing(started - ticket.submitted_s, compute_s, rows))
            for ticket, output in zip(self.tickets, outputs, strict=True)
        ]

    def _run_alone(self, ticket: Ticket, clock: Callable[[], float]) -> Answer | Failure:
        request = ticket.inputs or {}
        started = clock()
        try:
            outputs = self.infer([request])
            _require_all(outputs, [request])
        except Exception as error:  # noqa: BLE001  # as above
            return _failure(error, _timing(ticket, started, clock() - started, ticket.rows))
        return Answer(outputs[0], _timing(ticket, started, clock() - started, ticket.rows))


def _require_all(outputs: Sequence[object], requests: Sequence[object]) -> None:
    if len(outputs) != len(requests):
        raise VariantError(
            f"the variant gave {len(outputs)} answers to {len(requests)} requests, must be as many"
        )


def _timing(ticket: Ticket, started: float, compute_s: float, rows: int) -> Timing:
    return Timing(started - ticket.submitted_s, compute_s, rows)


def _failure(error: Exception, timing: Timing) -> Failure:
    kind = FailureKind.INPUT if isinstance(error, VariantInputError) else FailureKind.ERROR
    return Failure(kind=kind, message=f"{type(error).__name__}: {error}", timing=timing, error=error)
