"""What one worker counts of its requests: a few numbers appended a request, put into buckets once a second.

The request path does what it must and no more: six numbers go to the end of a flat array. Everything that Prometheus
wants is made of them when a report is due, by numpy, for all requests at once.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from anabranch.router.classes import CLASSES
from anabranch.router.metrics.catalogue import PRIORITIES, REQUESTS, Metric
from anabranch.router.metrics.samples import Buckets, Tally
from anabranch.router.models import Models
from anabranch.store.records import Flag
from anabranch.variants.batching import Timing
from anabranch.wire.seam import Status

_COLUMNS: Final = 6
_FAILED: Final = -1.0
_BORDERS: Final = {
    metric.name: np.asarray(metric.borders)
    for metric in (
        REQUESTS.duration,
        REQUESTS.queue,
        REQUESTS.compute,
        REQUESTS.router,
        REQUESTS.batch_rows,
        REQUESTS.first_token,
        REQUESTS.token,
        PRIORITIES.duration,
    )
}
Values = npt.NDArray[np.float64]


class Flown(Protocol):
    """What a meter reads of a request that has ended."""

    flags: Flag
    is_hedged: bool
    level: int
    took_ms: float


class VariantMeter:
    """One variant's requests since the last report, and in all.

    Attributes:
        answered: Requests that it answered, in all, up to the last report.
        failed: Requests that it failed, in all, by status.
        latency_s: Sum of its answers' latencies, up to the last report.
        queue_s: Sum of their times in a queue.
        compute_s: Sum of their times of computing.
    """

    __slots__ = (
        "_append",
        "_first_tokens",
        "_flat",
        "_tokens",
        "answered",
        "compute_s",
        "failed",
        "hedged",
        "latency_s",
        "masked",
        "note_row",
        "queue_s",
    )

    def __init__(self) -> None:
        self._flat = array("d")
        # Bound once: the request path looks nothing up.
        self._append = self._flat.append
        # Takes the six numbers of a plain answer as they are in memory: the express path notes it so.
        self.note_row: Callable[[bytes], None] = self._flat.frombytes
        self._first_tokens = array("d")
        self._tokens = array("d")
        self.answered = self.masked = self.hedged = 0
        self.failed: Counter[int] = Counter()
        self.latency_s = self.queue_s = self.compute_s = 0.0

    def note(self, flight: Flown, status: int, latency_ms: float, timing: Timing) -> None:
        """Take a request that has ended.

        Args:
            flight: The request.
            status: The variant's own status.
            latency_ms: As recorded: infinite where the variant did not answer in its time.
            timing: Where the answer's time went.
        """
        append = self._append
        append(latency_ms)
        append(flight.took_ms)
        append(flight.level)
        if flight.is_hedged:
            self.hedged += 1
        if status:
            # Whatever was computed is another variant's.
            append(0.0)
            append(0.0)
            append(_FAILED)
            self.failed[status] += 1
            self.masked += Flag.MASKED in flight.flags
            return
        append(timing.queue_s)
        append(timing.compute_s)
        append(timing.batch_rows)
        if timing.first_token_s is not None:
            self._first_tokens.append(timing.first_token_s)
            if timing.token_s is not None:
                self._tokens.append(timing.token_s)

    def report(self, tally: Tally, model: str, variant: str) -> Values:
        """Tell what came since the last report; answers what each client waited (ms) and its level, a row each."""
        rows = np.array(self._flat).reshape(-1, _COLUMNS)
        first_tokens, tokens = np.array(self._first_tokens), np.array(self._tokens)
        for taken in (self._flat, self._first_tokens, self._tokens):
            del taken[:]
        latency_s = rows[:, 0] / 1000.0
        answers = rows[:, 5] > _FAILED
        queue_s, compute_s = rows[answers, 3], rows[answers, 4]
        router_s = np.maximum(latency_s[answers] - queue_s - compute_s, 0.0)
        self.answered += len(queue_s)
        self.latency_s += float(latency_s[answers].sum())
        self.queue_s += float(queue_s.sum())
        self.compute_s += float(compute_s.sum())
        values: dict[str, tuple[Metric, Values]] = {
            "latency": (REQUESTS.duration, latency_s),
            "queue": (REQUESTS.queue, queue_s),
            "compute": (REQUESTS.compute, compute_s),
            "router": (REQUESTS.router, router_s),
            "rows": (REQUESTS.batch_rows, rows[answers, 5]),
        }
        if len(first_tokens):
            values["first token"] = (REQUESTS.first_token, first_tokens)
            values["token"] = (REQUESTS.token, tokens)
        for metric, found in values.values():
            tally.measured(metric, buckets_of(metric, found), model, variant)
        tally.total(REQUESTS.total, self.answered, model, variant, Status.OK.name)
        for status, count in self.failed.items():
            tally.total(REQUESTS.total, count, model, variant, Status(status).name)
        tally.total(REQUESTS.masked, self.masked, model, variant)
        tally.total(REQUESTS.hedged, self.hedged, model, variant)
        return rows[:, 1:3]


class Meters:
    """The meters of one worker's variants.

    Args:
        models: What is served.
        targets_ms: By class of priority, within what its requests should be answered.
    """

    def __init__(self, models: Models, targets_ms: Mapping[str, float]) -> None:
        self._targets_s = [targets_ms[name] / 1000.0 for name in CLASSES]
        self._meters = {model.name: {name: VariantMeter() for name in model.variants} for model in models}

    def __getitem__(self, model: str) -> Mapping[str, VariantMeter]:
        """The meters of a model's variants, by name."""
        return self._meters[model]

    def report(self, tally: Tally) -> int:
        """Tell what came since the last report; answers how many requests that were."""
        return sum(
            self._report_classes(
                tally, model, [meter.report(tally, model, variant) for variant, meter in meters.items()]
            )
            for model, meters in self._meters.items()
        )

    def _report_classes(self, tally: Tally, model: str, waited: Sequence[Values]) -> int:
        """Tell of a model's requests by class; answers how many there were."""
        rows = np.concatenate(waited)
        if not len(rows):
            return 0
        took_s, places = rows[:, 0] / 1000.0, np.minimum(rows[:, 1], len(CLASSES)) - 1
        for place, name in enumerate(CLASSES):
            found = took_s[places == place]
            if len(found):
                tally.measured(PRIORITIES.duration, buckets_of(PRIORITIES.duration, found), model, name)
                within = np.count_nonzero(found <= self._targets_s[place])
                tally.add(PRIORITIES.within, int(within), model, name)
        return len(rows)


def buckets_of(metric: Metric, values: Values) -> Buckets:
    """Values as a histogram of a metric."""
    borders = _BORDERS.get(metric.name)
    if borders is None:
        borders = np.asarray(metric.borders)
    if not len(values):
        return Buckets([0] * (len(borders) + 1))
    counts = np.bincount(np.searchsorted(borders, values, side="left"), minlength=len(borders) + 1)
    return Buckets(counts.tolist(), float(values[np.isfinite(values)].sum()))
