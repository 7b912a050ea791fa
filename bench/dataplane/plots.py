"""Bar charts as SVG text, readable on light and dark pages."""

import math
from collections.abc import Callable, Sequence
from html import escape

from bench.dataplane.results import Spread

_WIDTH, _ROW, _LABEL, _VALUE, _TOP = 820, 26, 210, 210, 34
_LOGARITHMIC_FROM = 30.0
"""A chart whose bars differ by more than this factor is logarithmic."""


def bars(title: str, figures: Sequence[tuple[str, Spread]]) -> str:
    """A horizontal bar for each median, with its range as a line, shortest first.

    Args:
        title: Above the chart.
        figures: Names and their repetitions, positive.
    """
    ordered = sorted(figures, key=lambda each: each[1].median)
    smallest, largest = min(ordered[0][1].values), max(max(spread.values) for _, spread in ordered)
    is_logarithmic = largest / ordered[0][1].median > _LOGARITHMIC_FROM
    room = _WIDTH - _LABEL - _VALUE

    def place(value: float) -> float:
        if is_logarithmic:
            low = math.log(smallest / 2)
            return room * (math.log(value) - low) / (math.log(largest) - low)
        return room * value / largest

    rows = [_row(number, name, spread, place) for number, (name, spread) in enumerate(ordered)]
    height = _TOP + _ROW * len(ordered) + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
            "<style>text{fill:#24292f}.bar{fill:#8c959f}.ours{fill:#1a7f5a}line{stroke:#24292f}"
            "@media(prefers-color-scheme:dark){text{fill:#d0d7de}line{stroke:#d0d7de}}</style>",
            f'<text x="0" y="18" font-weight="bold">{escape(title)}</text>',
            *rows,
            "</svg>",
            "",
        ]
    )


def _row(number: int, name: str, spread: Spread, place: Callable[[float], float]) -> str:
    top = _TOP + _ROW * number
    middle = top + _ROW / 2
    low, high = _LABEL + place(min(spread.values)), _LABEL + place(max(spread.values))
    kind = "ours" if name.startswith("Anabranch") else "bar"
    return (
        f'<text x="{_LABEL - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(name)}</text>'
        f'<rect class="{kind}" x="{_LABEL}" y="{top + 4}" width="{place(spread.median):.1f}" height="{_ROW - 8}"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.0f}" y2="{middle:.0f}"/>'
        f'<text x="{high + 8:.1f}" y="{middle + 4:.0f}">{spread.text()}</text>'
    )
