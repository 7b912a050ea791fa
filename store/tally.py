"""What one batch of records adds up to for one experiment, and what a single feedback adds to it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anabranch.bandit.evidence import Cell, PairCell, Window
from anabranch.bandit.measures import DIFFERENCE_SCALE, feedback_scales, label_windows, worst_feedback
from anabranch.bandit.scales import BinaryScale, GridScale
from anabranch.bandit.spec import FEEDBACK_PREFIX, KL
from anabranch.store.document import parse
from anabranch.store.ingestion_port import CurrentSpec, FeedbackRow, PairRow


@dataclass(slots=True)
class WindowCounts:
    """As `bandit.evidence.Window`, while they are counted."""

    opened: int = 0
    unlabelled: int = 0
    late: int = 0


@dataclass(slots=True)
class Counts:
    """Counts of one arm in one epoch, of the split or of compared replies."""

    units: int = 0
    requests: int = 0
    masked: int = 0
    failed: int = 0
    metrics: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    windows: dict[str, WindowCounts] = field(default_factory=dict)

    def count(self, source: str, index: int, times: int = 1) -> None:
        """Count outcomes of a bin."""
        histogram = self.metrics[source]
        histogram[index] = histogram.get(index, 0) + times

    def window(self, source: str) -> WindowCounts:
        """Where what becomes of a source's label windows is counted."""
        return self.windows.setdefault(source, WindowCounts())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a spec version says about how its records count.

    Attributes:
        arms: Variants by the number of their arm.
        feedback: Scales by name after `feedback.`.
        worst: The worst value of each feedback.
        first_epoch: Records of an earlier epoch belong to an earlier spec version.
        remembers_pairs: Whether a feedback can come that credits compared replies.
        asks_divergence: Whether the nats of compared replies are counted.
        prices: Of an hour of each arm's hardware, by the arm's number; empty where costs are not counted.
        windows: In seconds, how long a label is waited for, by name after `feedback.`; without those that count when
            they come.
    """

    arms: tuple[str, ...]
    feedback: Mapping[str, BinaryScale | GridScale]
    worst: Mapping[str, float]
    first_epoch: int
    remembers_pairs: bool
    asks_divergence: bool = False
    prices: tuple[float, ...] = ()
    windows: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any], first_epoch: int) -> Plan:
        """The plan of a document, whose records are those of an epoch and later ones."""
        experiment = parse(document)
        feedback = feedback_scales(experiment)
        windows = label_windows(experiment)
        return cls(
            arms=experiment.arms,
            feedback=feedback,
            worst=worst_feedback(experiment),
            first_epoch=first_epoch,
            remembers_pairs=any(
                isinstance(scale, BinaryScale) and name not in windows for name, scale in feedback.items()
            ),
            asks_divergence=any(metric.source == KL for metric in experiment.metrics),
            prices=()
            if experiment.unpriced
            else tuple(price for price in experiment.hourly_prices if price is not None),
            windows=windows,
        )


class Plans:
    """The plans of the present spec versions; a document is read once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Plan]] = {}

    def read(self, specs: Iterable[CurrentSpec]) -> dict[int, Plan]:
        """The plans of what is kept, by the experiments' numbers."""
        given = list(specs)
        self._known = {each.id: self._known[each.id] for each in given if each.id in self._known}
        return {
            each.id: self.of(each.id, each.spec_version, each.first_epoch, each.document) for each in given
        }

    def of(
        self, experiment: int, spec_version: int, first_epoch: int, document: str | Mapping[str, Any]
    ) -> Plan:
        """The plan of one spec version, of its document or the JSON of that."""
        known = self._known.get(experiment)
        if known is None or known[0] != spec_version:
            body = json.loads(document) if isinstance(document, str) else document
            known = self._known[experiment] = (spec_version, Plan.of(body, first_epoch))
        return known[1]


@dataclass(slots=True)
class Tally:
    """Counts of one experiment while a batch is read."""

    plan: Plan
    cells: dict[tuple[int, int], Counts] = field(default_factory=dict)
    pairs: dict[tuple[int, int], Counts] = field(default_factory=dict)

    def cell(self, epoch: int, arm: int) -> Counts:
        """Where outcomes of the split are counted."""
        return self.cells.setdefault((epoch, arm), Counts())

    def pair(self, epoch: int, arm: int) -> Counts:
        """Where compared replies are counted."""
        return self.pairs.setdefault((epoch, arm), Counts())

    def is_countable(self, row: FeedbackRow) -> bool:
        """Whether the experiment uses such feedback, and its value is in range."""
        scale = self.plan.feedback.get(row.metric)
        if scale is None:
            return False
        if row.is_label:
            return isinstance(scale, BinaryScale) and row.top1 >= 0
        return scale.low <= row.value <= scale.high and (
            isinstance(scale, GridScale) or row.value in (0.0, 1.0)
        )

    def credit_split(self, row: FeedbackRow) -> None:
        """Count feedback as evidence of the split now, unless it is about the pairs or waits for its window's end."""
        if row.metric in self.plan.windows or not self.is_countable(row) or self.is_for_pairs(row):
            return
        self.cell(row.epoch, row.arm).count(FEEDBACK_PREFIX + row.metric, self.bin_of(row))

    def bin_of(self, row: FeedbackRow) -> int:
        """Where countable feedback lies on its metric's scale."""
        value = float(row.value == row.top1) if row.is_label else row.value
        return self.plan.feedback[row.metric].bin_of(value)

    def is_binary(self, metric: str) -> bool:
        """Whether a feedback of the plan says yes or no."""
        return isinstance(self.plan.feedback[metric], BinaryScale)

    def is_for_pairs(self, row: FeedbackRow) -> bool:
        """Whether countable feedback is evidence about the pairs, and not of the split."""
        return row.sampled and self._is_classified(row)

    def credit_pair(self, pair: PairRow, feedback: FeedbackRow) -> None:
        """Count what feedback about a sampled request says of one of its compared replies."""
        is_about_pair = feedback.arm == 0 and feedback.sampled and self.is_countable(feedback)
        if feedback.metric in self.plan.windows or not is_about_pair or not self._is_classified(feedback):
            return
        apart = difference(pair.top1, pair.baseline_top1, feedback, self.plan.worst[feedback.metric])
        self.pair(pair.epoch, pair.arm).count(
            FEEDBACK_PREFIX + feedback.metric, DIFFERENCE_SCALE.bin_of(apart)
        )

    def delta(self) -> tuple[list[Cell], list[PairCell]]:
        """What was counted, as evidence."""
        cells = [
            Cell(
                epoch=epoch,
                variant=self.plan.arms[arm],
                units=counts.units,
                requests=counts.requests,
                masked=counts.masked,
                metrics=counts.metrics,
                windows=_windows(counts),
            )
            for (epoch, arm), counts in sorted(self.cells.items())
        ]
        pairs = [
            PairCell(
                epoch=epoch,
                variant=self.plan.arms[arm],
                pairs=counts.requests,
                failed=counts.failed,
                metrics=counts.metrics,
                windows=_windows(counts),
            )
            for (epoch, arm), counts in sorted(self.pairs.items())
        ]
        return cells, pairs

    def _is_classified(self, row: FeedbackRow) -> bool:
        """Whether the feedback says if a class was right, so that compared replies can be credited too."""
        return isinstance(self.plan.feedback[row.metric], BinaryScale) and row.top1 >= 0


def difference(top1: int, baseline_top1: int, feedback: FeedbackRow, worst: float) -> int:
    """How much better than the baseline's a compared reply was, -1 to 1, by feedback about the baseline's.

    Args:
        top1: Class of the compared reply, -1 where there is none.
        baseline_top1: Class of the baseline's.
        feedback: Says the class, or whether the baseline's was right.
        worst: The worst value of the feedback.
    """
    if feedback.is_label:
        return int(top1 == feedback.value) - int(baseline_top1 == feedback.value)
    if top1 == baseline_top1:
        return 0
    # Without the label nobody knows what a differing reply would have got: the worst is assumed.
    return int(worst - feedback.value)


def _windows(counts: Counts) -> dict[str, Window]:
    return {
        source: Window(opened=window.opened, unlabelled=window.unlabelled, late=window.late)
        for source, window in counts.windows.items()
    }
