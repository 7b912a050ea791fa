"""Plots as files: SVG as they are drawn, PNG by resvg where it is installed."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

_PIXELS: Final = 2.0
"""Pixels of a PNG to a unit of the plot: sharp on the screens of today."""


class PictureKind(StrEnum):
    """How a plot is written into a file."""

    SVG = "svg"
    PNG = "png"


class MissingRenderer(ModuleNotFoundError):
    """PNG needs an extra: pip install 'anabranch[png]'; or take --plots-as svg, which every browser shows."""

    def __init__(self) -> None:
        super().__init__(" ".join((self.__doc__ or "").split()))


def require(kind: PictureKind) -> None:
    """See that such files can be written.

    Raises:
        MissingRenderer: If they cannot.
    """
    if kind is PictureKind.PNG:
        try:
            import resvg_py  # noqa: F401  # whether it is there
        except ModuleNotFoundError as error:
            raise MissingRenderer from error


def picture(svg: str, kind: PictureKind) -> bytes:
    """A plot that stands alone as the bytes of a file.

    Args:
        svg: The plot.
        kind: Of the file; see `require`.
    """
    if kind is PictureKind.SVG:
        return svg.encode()
    import resvg_py

    return resvg_py.svg_to_bytes(svg_string=svg, zoom=_PIXELS)
