"""The colours of variants, the same in the terminal and in reports, told apart by colour-blind people too.

Source:
    Okabe, Ito: Color universal design (2008); a little darker or lighter where the background asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

ARM_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b3a100", "#8c6bb1")
"""The baseline's first; they begin again where there are more variants."""


def arm_colours(names: Sequence[str]) -> dict[str, str]:
    """By name, in the order of the spec."""
    return {name: ARM_COLOURS[index % len(ARM_COLOURS)] for index, name in enumerate(names)}
