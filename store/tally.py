"""What one batch of records adds up to for one experiment, and what a single feedback adds to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from anabranch.bandit.evidence import Cell, PairCell
from anabranch.bandit.measures import DIFFERENCE_SCALE, feedback_scales, worst_feedback
from anabranch.bandit.scales import BinaryScale, GridScale
from anabranch.bandit.spec import FEEDBACK_PREFIX, KL
from anabranch.store.document import parse
from anabranch.store.port import FeedbackRow, PairRow, StoredExperiment


@dataclass(slots=True)
class Counts:
    """Counts of one arm in one epoch, of the split or of compared replies."""

    units: int = 0
    requests: int = 0
    masked: int = 0
    failed: int = 0
    metrics: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def count(self, source: str, index: int, times: int = 1) -> None:
        """Count outcomes of a bin."""
        histogram = self.metrics[source]
        histogram[index] = histogram.get(index, 0) + times


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
    """

    arms: tuple[str, ...]
    feedback: Mapping[str, BinaryScale | GridScale]
    worst: Mapping[str, float]
    first_epoch: int
    remembers_pairs: bool
    asks_divergence: bool = False
    prices: tuple[float, ...] = ()

    @classmethod
    def of(cls, kept: StoredExperiment) -> Plan:
        """The plan of an experiment as it is kept."""
        experiment = parse(kept.document)
        feedback = feedback_scales(experiment)
        return cls(
            arms=experiment.arms,
            feedback=feedback,
            worst=worst_feedback(experiment),
            first_epoch=kept.first_epoch,
            remembers_pairs=any(isinstance(scale, BinaryScale) for scale in feedback.values()),
            asks_divergence=any(metric.source == KL for metric in experiment.metrics),
            prices=()
            if experiment.unpriced
            else tuple(price for price in experiment.hourly_prices if price is not None),
        )


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
        """Count feedback as evidence of the split, unless it is evidence about the pairs."""
        if not self.is_countable(row) or (row.sampled and self._is_classified(row)):
            return
        value = float(row.value == row.top1) if row.is_label else row.value
        self.cell(row.epoch, row.arm).count(
            FEEDBACK_PREFIX + row.metric, self.plan.feedback[row.metric].bin_of(value)
        )

    def credit_pair(self, pair: PairRow, feedback: FeedbackRow) -> None:
        """Count what feedback about a sampled request says of one of its compared replies."""
        is_about_pair = feedback.arm == 0 and feedback.sampled and self.is_countable(feedback)
        if not is_about_pair or not self._is_classified(feedback):
            return
        if feedback.is_label:
            difference = int(pair.top1 == feedback.value) - int(pair.baseline_top1 == feedback.value)
        elif pair.top1 == pair.baseline_top1:
            difference = 0
        else:
            # Without the label nobody knows what a differing reply would have got: the worst is assumed.
            difference = int(self.plan.worst[feedback.metric] - feedback.value)
        self.pair(pair.epoch, pair.arm).count(
            FEEDBACK_PREFIX + feedback.metric, DIFFERENCE_SCALE.bin_of(difference)
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
            )
            for (epoch, arm), counts in sorted(self.pairs.items())
        ]
        return cells, pairs

    def _is_classified(self, row: FeedbackRow) -> bool:
        """Whether the feedback says if a class was right, so that compared replies can be credited too."""
        return isinstance(self.plan.feedback[row.metric], BinaryScale) and row.top1 >= 0
