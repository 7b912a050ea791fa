"""What a dashboard remembers of earlier looks: a bounded number of points, however long it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anabranch.cli.view_types import ExperimentView

MOST_POINTS = 240
"""When there are more, every second one is forgotten, and later ones are kept half as often."""


@dataclass(frozen=True, slots=True)
class Point:
    """One look.

    Attributes:
        at_s: Seconds since 1970.
        requests: By arm, served since the experiment began.
    """

    at_s: float
    requests: Mapping[str, int]


@dataclass(slots=True)
class Track:
    """The looks at one run of an experiment."""

    most: int = MOST_POINTS
    points: list[Point] = field(default_factory=list)
    apart_s: float = 0.0

    def add(self, view: ExperimentView) -> None:
        """Remember a look; those of an earlier run are forgotten when counts begin anew."""
        point = Point(view.at_s, {arm.name: arm.requests for arm in view.arms})
        if self.points and _began_anew(self.points[-1], point):
            self.points.clear()
            self.apart_s = 0.0
        # The last two are always the newest looks; the one before gives way where they are too close.
        if len(self.points) > 1 and self.points[-1].at_s - self.points[-2].at_s < self.apart_s:
            self.points.pop()
        self.points.append(point)
        if len(self.points) > self.most:
            span_s = self.points[-1].at_s - self.points[0].at_s
            del self.points[1:-1:2]
            self.apart_s = span_s / (self.most / 2)

    def rates(self, arm: str, columns: int) -> list[float | None]:
        """Requests a second over the remembered time, in equal stretches, oldest first; None where nothing is known."""
        if len(self.points) < 2 or columns < 1:
            return [None] * columns
        first, last = self.points[0].at_s, self.points[-1].at_s
        width_s = (last - first) / columns
        if not width_s > 0.0:
            return [None] * columns
        found: list[float | None] = []
        place = 0
        for column in range(columns):
            middle = first + (column + 0.5) * width_s
            while place < len(self.points) - 2 and self.points[place + 1].at_s < middle:
                place += 1
            before, after = self.points[place], self.points[place + 1]
            spent_s = after.at_s - before.at_s
            served = after.requests.get(arm, 0) - before.requests.get(arm, 0)
            found.append(served / spent_s if spent_s > 0.0 else None)
        return found


def _began_anew(before: Point, after: Point) -> bool:
    return any(after.requests.get(arm, 0) < count for arm, count in before.requests.items())
