"""A sheet to draw on: shapes in, one SVG document out; every text is escaped here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape, quoteattr

FONT_SIZE = 12
CHARACTER = 6.6
"""Width of an average character at that size, in the sheet's units."""

_LIGHT: Final = {"ink": "#1d2330", "soft": "#5d6675", "grid": "#e3e6eb", "paper": "#ffffff"}
_DARK: Final = {"ink": "#e6e9ef", "soft": "#9aa4b2", "grid": "#333a46", "paper": "#14171c"}
"""The colours of a plot that stands alone; in a page, the page sets variables of the same names."""
_VARIABLE: Final = re.compile(r'(fill|stroke)="var\(--(\w+)\)"')


@dataclass(slots=True)
class Canvas:
    """A sheet, in units of about a pixel; y grows downwards."""

    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, more: str = "") -> None:
        """A straight line."""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{more}/>'
        )

    def rect(self, x: float, y: float, width: float, height: float, fill: str, more: str = "") -> None:
        """A filled rectangle."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" height="{max(height, 0.0):.1f}" fill="{fill}"{more}/>'
        )

    def polyline(self, points: Sequence[tuple[float, float]], stroke: str, more: str = "") -> None:
        """Connected lines."""
        listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{listed}" fill="none" stroke="{stroke}"{more}/>')

    def polygon(self, points: Sequence[tuple[float, float]], fill: str, more: str = "") -> None:
        """A filled area."""
        listed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polygon points="{listed}" fill="{fill}"{more}/>')

    def circle(self, x: float, y: float, radius: float, fill: str, more: str = "") -> None:
        """A dot."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}"{more}/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        fill: str = "var(--soft)",
        more: str = "",
    ) -> None:
        """A line of text; y is its base."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{more}>{escape(text)}</text>'
        )

    def svg(self, title: str, description: str, *, stands_alone: bool = False) -> str:
        """The document.

        Args:
            title: What it shows, for everybody.
            description: What can be read off it, for those who do not see it.
            stands_alone: Whether it brings its own colours, as a file of its own must.
        """
        size = f'viewBox="0 0 {self.width:.0f} {self.height:.0f}"'
        body = "".join(self.parts)
        if stands_alone:
            size += f' width="{self.width:.0f}" height="{self.height:.0f}"'
            paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
            body = f"<style>{_style()}</style>{_VARIABLE.sub(_coloured, paper + body)}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(title)} '
            f'font-size="{FONT_SIZE}"><title>{escape(title)}</title><desc>{escape(description)}</desc>{body}</svg>'
        )


def _style() -> str:
    """By night, classes override the colours that shapes have: many programs that show SVG know no variables."""
    dark = "".join(
        f".fill-{name}{{fill:{colour}}}.stroke-{name}{{stroke:{colour}}}" for name, colour in _DARK.items()
    )
    return f"svg{{font-family:system-ui,sans-serif}}@media(prefers-color-scheme:dark){{{dark}}}"


def _coloured(found: re.Match[str]) -> str:
    kind, name = found.groups()
    return f'{kind}="{_LIGHT[name]}" class="{kind}-{name}"'
