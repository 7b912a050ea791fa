"""Shapes of latency distributions: samplers with their distribution functions, on the scale that counts them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from scipy import special

from anabranch.bandit.scales import LATENCY_SCALE, FloatArray


class Shape(Protocol):
    """A latency distribution, in milliseconds."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def sample(self, rng: np.random.Generator, size: int) -> FloatArray:
        """Independent draws."""
        ...

    def below(self, x: FloatArray) -> FloatArray:
        """The distribution function."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LognormalMixture:
    """Parts of lognormal shape: (share, median in ms, standard deviation of the logarithm)."""

    name: str
    parts: tuple[tuple[float, float, float], ...]

    def sample(self, rng: np.random.Generator, size: int) -> FloatArray:
        """Independent draws."""
        part = rng.choice(len(self.parts), size=size, p=[share for share, _, _ in self.parts])
        medians = np.array([median for _, median, _ in self.parts])[part]
        sigmas = np.array([sigma for _, _, sigma in self.parts])[part]
        result: FloatArray = medians * np.exp(sigmas * rng.standard_normal(size))
        return result

    def below(self, x: FloatArray) -> FloatArray:
        """The distribution function."""
        total = np.zeros_like(x)
        for share, median, sigma in self.parts:
            total = total + share * special.ndtr(np.log(x / median) / sigma)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Pareto:
    """A power-law tail from 5 ms on; below an index of 2 the variance is infinite."""

    name: str
    index: float

    def sample(self, rng: np.random.Generator, size: int) -> FloatArray:
        """Independent draws."""
        result: FloatArray = 5.0 * (1.0 + rng.pareto(self.index, size))
        return result

    def below(self, x: FloatArray) -> FloatArray:
        """The distribution function."""
        result: FloatArray = np.where(x > 5.0, 1.0 - (5.0 / np.maximum(x, 5.0)) ** self.index, 0.0)
        return result


LOGNORMAL: Final = LognormalMixture(name="lognormal", parts=((1.0, 10.0, 0.6),))
MIXTURE: Final = LognormalMixture(name="lognormal mixture", parts=((0.9, 10.0, 0.3), (0.1, 40.0, 0.5)))
PARETO: Final = Pareto(name="Pareto 2.1", index=2.1)
COLD_START: Final = LognormalMixture(name="cold starts", parts=((0.97, 10.0, 0.2), (0.03, 200.0, 0.2)))
SHAPES: Final[tuple[Shape, ...]] = (LOGNORMAL, MIXTURE, PARETO, COLD_START)

# Far enough on both sides for every shape here, fine enough for an infimum.
GRID: Final[FloatArray] = np.exp(np.linspace(math.log(0.5), math.log(5e4), 20_001))


def histogram(values: FloatArray) -> dict[int, int]:
    """Values counted on the latency scale."""
    bins, counts = np.unique(LATENCY_SCALE.bins_of(values), return_counts=True)
    return dict(zip(bins.tolist(), counts.tolist(), strict=True))
