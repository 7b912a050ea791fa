"""How the next token is chosen: the most likely one, or one drawn by temperature from the likeliest."""

import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import VariantInputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What a request asks of its answer.

    Args:
        max_tokens: Tokens of the answer at most, at least 1.
        temperature: 0 takes the most likely token; otherwise logits are divided by it, at most 100.
        top_p: Draws are from the likeliest tokens that have this share of the probability together, in (0, 1].
        seed: Makes the draws repeatable; None takes fresh ones.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no answer could meet."""
        if self.max_tokens < 1:
            raise VariantInputError(f"max_tokens is {self.max_tokens}, must be at least 1")
        if not 0 <= self.temperature <= 100:
            raise VariantInputError(f"temperature is {self.temperature:g}, must be in 0..100")
        if not 0 < self.top_p <= 1:
            raise VariantInputError(f"top_p is {self.top_p:g}, must be above 0 and at most 1")
        if self.seed is not None and self.seed < 0:
            raise VariantInputError(f"seed is {self.seed}, must be at least 0")


def read_sampling(text: bytes) -> Sampling:
    """Read a request's sampling parameters: a JSON object, whose numbers may be written as strings.

    Raises:
        VariantInputError: It is no such object, or a name or a value is not allowed.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise VariantInputError(f"sampling_parameters is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise VariantInputError(f"sampling_parameters is a {type(given).__name__}, must be a JSON object")
    known = {field.name for field in fields(Sampling)}
    strange = sorted(given.keys() - known)
    if strange:
        raise VariantInputError(f"sampling_parameters has {strange}, allowed are {sorted(known)}")
    whole = {"max_tokens", "seed"}
    values = {name: _number(name, value, whole=name in whole) for name, value in given.items()}
    return Sampling(**values)


def _number(name: str, value: Any, *, whole: bool) -> Any:
    if value is None and name == "seed":
        return None
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
            if not whole and np.isfinite(number):
                return number
            if whole and number.is_integer():
                return int(number)
        except (ValueError, OverflowError):
            pass
    raise VariantInputError(f"{name} is {value!r}, must be a {'whole ' if whole else ''}number")


def choose(logits: NDArray[np.float32], sampling: Sampling, u: float) -> int:
    """The next token.

    Args:
        logits: Shape (vocabulary,).
        sampling: Temperature and share.
        u: Uniform in [0, 1): the draw.

    Source:
        Holtzman et al. 2020, The curious case of neural text degeneration (top-p).
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    shares = np.exp(scaled - scaled.max())
    order = np.argsort(-shares, kind="stable")
    sums = np.cumsum(shares[order])
    # The token that completes the share belongs to it.
    kept = int(np.searchsorted(sums, sampling.top_p * sums[-1])) + 1
    kept = min(kept, len(order))
    return int(order[min(int(np.searchsorted(sums[:kept], u * sums[kept - 1], side="right")), kept - 1)])
