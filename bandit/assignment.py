"""Who is served by what: a pure, stable map from a unit and a layout to an arm and its propensity."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

_MANTISSA_BITS = 53
_SCALE = 1.0 / (1 << _MANTISSA_BITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A partition of [0, 1) into stretches, each owned by one arm.

    Attributes:
        ends: Right end of every stretch, ascending; the last is 1.0.
        owners: Arm number of every stretch; 0 is the baseline.
        weights: Share of every arm, baseline first; sums to 1.
    """

    ends: tuple[float, ...]
    owners: tuple[int, ...]
    weights: tuple[float, ...]


def unit_point(salt: bytes, unit: bytes) -> float:
    """The unit's fixed place in [0, 1): the same on every replica and after every restart.

    Args:
        salt: The experiment's salt, at most 64 bytes.
        unit: The unit's identity, any length.
    """
    digest = blake2b(unit, digest_size=8, key=salt).digest()
    return (int.from_bytes(digest, "big") >> (64 - _MANTISSA_BITS)) * _SCALE


def assign(layout: Layout, point: float) -> tuple[int, float]:
    """The arm that owns a point, and the probability with which a uniform point falls to that arm.

    Args:
        layout: The current partition.
        point: A place in [0, 1): `unit_point` for sticky units, a fresh draw otherwise.
    """
    arm = layout.owners[bisect_right(layout.ends, point)]
    return arm, layout.weights[arm]


def lay_out(candidate_weights: Sequence[float]) -> Layout:
    """Give every candidate its reserved range, and the baseline what is left.

    Candidate i of K grows from i/K upwards inside [i/K, (i+1)/K), so a ramp only ever moves units from the
    baseline to that candidate and never between candidates. A weight above 1/K spills into what the other
    candidates leave free, taken from the far end of each range, which its owner would claim last.

    Args:
        candidate_weights: Shares in [0, 1], in the spec's order of candidates, removed ones with 0.

    Raises:
        ValueError: If a weight is outside [0, 1] or the weights sum to more than 1.
    """
    weights = [float(weight) for weight in candidate_weights]
    total = sum(weights)
    if any(not 0.0 <= weight <= 1.0 for weight in weights) or total > 1.0 + 1e-9:
        raise ValueError(f"candidate weights {weights} must each lie in [0, 1] and sum to at most 1")
    if not weights:
        return Layout(ends=(1.0,), owners=(0,), weights=(1.0,))
    width = 1.0 / len(weights)
    heads = [min(weight, width) for weight in weights]
    free = [[index * width + head, (index + 1) * width] for index, head in enumerate(heads)]
    stretches = [
        (index * width, index * width + head, index + 1) for index, head in enumerate(heads) if head > 0
    ]
    for index, weight in enumerate(weights):
        missing = weight - heads[index]
        for room in reversed(free):
            taken = min(missing, room[1] - room[0])
            if taken <= 0.0:
                continue
            stretches.append((room[1] - taken, room[1], index + 1))
            room[1] -= taken
            missing -= taken
    stretches.extend((start, end, 0) for start, end in free if end > start)
    return _joined(stretches, (max(0.0, 1.0 - total), *weights))


def _joined(stretches: list[tuple[float, float, int]], weights: tuple[float, ...]) -> Layout:
    ends: list[float] = []
    owners: list[int] = []
    for _start, end, owner in sorted(stretches):
        if owners and owners[-1] == owner:
            ends[-1] = end
        else:
            ends.append(end)
            owners.append(owner)
    ends[-1] = 1.0
    return Layout(ends=tuple(ends), owners=tuple(owners), weights=weights)
