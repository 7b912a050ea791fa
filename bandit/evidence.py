"""What was seen, as counts that add up: per epoch and variant, order-free, mergeable over replicas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from anabranch.bandit.scales import Histogram


def add_histograms(parts: Iterable[Histogram]) -> dict[int, int]:
    """The sum of sparse histograms (bin to count), in ascending order of the bins."""
    total: dict[int, int] = {}
    for part in parts:
        if total:
            for index, count in part.items():
                total[index] = total.get(index, 0) + count
        else:
            total = dict(part)
    return dict(sorted(total.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What became of the label windows of one source's requests.

    Attributes:
        opened: Requests that began to wait for a label.
        unlabelled: Requests whose window closed without one.
        late: Labels that came after the window, and count for nothing.
    """

    opened: int = 0
    unlabelled: int = 0
    late: int = 0

    def plus(self, other: Window) -> Window:
        """The sum of two."""
        return Window(
            opened=self.opened + other.opened,
            unlabelled=self.unlabelled + other.unlabelled,
            late=self.late + other.late,
        )


def add_windows(parts: Iterable[Mapping[str, Window]]) -> dict[str, Window]:
    """The sum of windows by source."""
    total: dict[str, Window] = {}
    for part in parts:
        for source, window in part.items():
            total[source] = total[source].plus(window) if source in total else window
    return dict(sorted(total.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Outcomes of one arm in one epoch.

    Attributes:
        variant: Name of the variant the units were assigned to.
        units: Randomisation units first assigned here; what the sample ratio test counts.
        requests: Requests served, evidence or not.
        masked: Requests in which the variant failed and the baseline answered.
        metrics: Histogram of values by metric source.
        windows: By source with a label window, what became of it; the labels that came in time are in `metrics`.
    """

    epoch: int
    variant: str
    units: int = 0
    requests: int = 0
    masked: int = 0
    metrics: Mapping[str, Histogram] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCell:
    """Compared replies of a candidate and the baseline to the same inputs, in one epoch.

    For the baseline itself the pair is its own second reply: the noise floor.

    Attributes:
        metrics: By source: `mirror.top1_agreement` counts 0 and 1, `mirror.kl` nats; `feedback.<name>` counts the
            difference candidate minus baseline, on `measures.DIFFERENCE_SCALE`.
        failed: Copies the candidate did not answer.
        windows: As of a `Cell`. Replies that agree need no label: their difference is 0, whatever is right.
    """

    epoch: int
    variant: str
    pairs: int = 0
    failed: int = 0
    metrics: Mapping[str, Histogram] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Merged outcomes of one experiment between two places in its log.

    Attributes:
        first: Sequence number of the first delta inside, 0 when there is none.
        last: Sequence number of the last delta inside.
        weights: By epoch number, the share of every arm by variant name.
        at_s: When the tick that folds it in took place, in seconds since 1970; 0 before that.
    """

    experiment: str
    first: int = 0
    last: int = 0
    cells: tuple[Cell, ...] = ()
    pairs: tuple[PairCell, ...] = ()
    weights: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    at_s: float = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen."""
        return not self.cells and not self.pairs


def merge_cells(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The sum of cells by epoch and variant, sorted."""
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.epoch, cell.variant), []).append(cell)
    return tuple(
        group[0]
        if len(group) == 1
        else Cell(
            epoch=epoch,
            variant=variant,
            units=sum(cell.units for cell in group),
            requests=sum(cell.requests for cell in group),
            masked=sum(cell.masked for cell in group),
            metrics=_merge_metrics([cell.metrics for cell in group]),
            windows=add_windows(cell.windows for cell in group),
        )
        for (epoch, variant), group in sorted(groups.items())
    )


def merge_pairs(pairs: Iterable[PairCell]) -> tuple[PairCell, ...]:
    """The sum of pair cells by epoch and variant, sorted."""
    groups: dict[tuple[int, str], list[PairCell]] = {}
    for pair in pairs:
        groups.setdefault((pair.epoch, pair.variant), []).append(pair)
    return tuple(
        group[0]
        if len(group) == 1
        else PairCell(
            epoch=epoch,
            variant=variant,
            pairs=sum(pair.pairs for pair in group),
            failed=sum(pair.failed for pair in group),
            metrics=_merge_metrics([pair.metrics for pair in group]),
            windows=add_windows(pair.windows for pair in group),
        )
        for (epoch, variant), group in sorted(groups.items())
    )


def _merge_metrics(parts: list[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    sources = sorted({source for part in parts for source in part})
    return {source: add_histograms(part.get(source, {}) for part in parts) for source in sources}
