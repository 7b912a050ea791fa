"""Results read back: measurements by scenario, case and peer, as medians with their range."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Spread:
    """The repetitions of one figure."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    def text(self, digits: int = 1) -> str:
        """Median and range, as tables show them."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} [{low:,.{digits}f}–{high:,.{digits}f}]"


class Results:
    """The lines of some result files; of each scenario those of the last file that has it.

    Args:
        paths: Files of JSON lines, the newest last.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        by_scenario: dict[str, list[Mapping[str, Any]]] = {}
        for path in paths:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            by_scenario |= {
                scenario: [line for line in lines if line["scenario"] == scenario]
                for scenario in {line["scenario"]: None for line in lines}
            }
        self.lines: list[Mapping[str, Any]] = [line for lines in by_scenario.values() for line in lines]
        self._by_key: dict[Key, list[Mapping[str, Any]]] = {}
        for line in self.lines:
            key = (line["scenario"], line["case"], line["peer"])
            if "unavailable" not in line:
                self._by_key.setdefault(key, []).append(line)

    def has(self, scenario: str) -> bool:
        """Whether the scenario was run."""
        return any(line["scenario"] == scenario for line in self.lines)

    def peers(self, scenario: str, case: str) -> list[str]:
        """Who was measured, in the order of the run."""
        return [peer for where, what, peer in self._by_key if (where, what) == (scenario, case)]

    def of(self, scenario: str, case: str, peer: str) -> list[Mapping[str, Any]]:
        """All repetitions."""
        return self._by_key.get((scenario, case, peer), [])

    def spread(self, scenario: str, case: str, peer: str, figure: str) -> Spread | None:
        """One figure of the generator's result over the repetitions; None if it was not measured."""
        found = tuple(float(_figure(line, figure)) for line in self.of(scenario, case, peer))
        return Spread(found) if found else None

    def ratio(self, scenario: str, case: str, peer: str, of: str, figure: str) -> float | None:
        """The median of two peers' ratios, each in one repetition: the machine's speed changes between them."""
        below = {line["rep"]: float(_figure(line, figure)) for line in self.of(scenario, case, of)}
        ratios = [
            float(_figure(line, figure)) / below[line["rep"]]
            for line in self.of(scenario, case, peer)
            if below.get(line["rep"])
        ]
        return median(ratios) if ratios else None

    def missing(self, scenario: str) -> dict[str, str]:
        """Who could not be measured, and why."""
        return {
            line["peer"]: line["unavailable"]
            for line in self.lines
            if line["scenario"] == scenario and "unavailable" in line
        }


def _figure(line: Mapping[str, Any], name: str) -> Any:
    result = line.get("result", line)
    return result[name]
