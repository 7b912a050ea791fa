"""The aims of the data plane, and how far a run is from each."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.dataplane import cost, growth, split, tiny, weight_change
from bench.dataplane.results import Results

Found = float | None


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio or figure, and the most or least that it should be.

    Attributes:
        what: In words.
        most: The limit.
        find: The figure of a run; None where it was not measured.
        unit: After the figure.
        is_least: Whether the limit is a minimum.
    """

    what: str
    most: float
    find: Callable[[Results], Found]
    unit: str = "×"
    is_least: bool = False

    def row(self, results: Results) -> str:
        """A row of the table of aims."""
        found = self.find(results)
        sign = "≥" if self.is_least else "≤"
        limit = f"{sign} {self.most:.3g}{self.unit}"
        if found is None:
            return f"| {self.what} | {limit} | not measured | |"
        is_met = found >= self.most if self.is_least else found <= self.most
        if not self.most:
            return f"| {self.what} | none | {found:g} | {'met' if is_met else 'falls short'} |"
        excess = found / self.most
        verdict = (
            "met" if is_met else f"falls short by a factor of {excess if excess > 1 else 1 / excess:.2f}"
        )
        return f"| {self.what} | {limit} | {found:.3g}{self.unit} | {verdict} |"


def _split(case: str, of: str, figure: str) -> Callable[[Results], Found]:
    return lambda results: results.ratio("split", case, split.OURS, of, figure)


def _tiny(of: str) -> Callable[[Results], Found]:
    return lambda results: results.ratio("tiny", "32 in flight", tiny.OURS, of, "cpu_us")


def _cost(case: str) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        ratio = results.ratio("cost", case, cost.WITH, cost.WITHOUT, "cpu_us")
        return None if ratio is None else 100 * (ratio - 1)

    return find


def _goodput(share: str) -> Callable[[Results], Found]:
    def find(results: Results) -> Found:
        ours = results.spread("encoder", share, "Anabranch", "good_per_s")
        rivals = [
            spread.median
            for peer in results.peers("encoder", share)
            if peer != "Anabranch" and (spread := results.spread("encoder", share, peer, "good_per_s"))
        ]
        return ours.median / max(rivals) if ours and rivals else None

    return find


def _growth(case: str, large: str, small: str, figure: str) -> Callable[[Results], Found]:
    return lambda results: results.ratio("growth", case, large, small, figure)


def _flips(results: Results) -> Found:
    lines = results.of("weights", weight_change.CASE, weight_change.OURS)
    return median(effect for line in lines for effect in line["effect_ms"]) if lines else None


def _flip_failures(results: Results) -> Found:
    lines = results.of("weights", weight_change.CASE, weight_change.OURS)
    return float(sum(line["failed"] for line in lines)) if lines else None


def _memory(results: Results) -> Found:
    for peer in results.peers("growth", growth.MEMORY):
        samples = results.of("growth", growth.MEMORY, peer)[-1]["samples"]
        # The first third fills caches and the first snapshots of the evidence.
        begun, ended = samples[len(samples) // 3], samples[-1]
        a_minute = (ended["rss_mib"] - begun["rss_mib"]) / (ended["minute"] - begun["minute"])
        # A short run's own growth would always look flat.
        return float(1.0 + 60.0 * a_minute / begun["rss_mib"])
    return None


_FLAT = 1.1
AIMS = (
    Aim("split, small 4×16: CPU a request against Envoy", 0.67, _split("small 4×16", "Envoy", "cpu_us")),
    Aim("split, small 32×1: CPU a request against Envoy", 0.67, _split("small 32×1", "Envoy", "cpu_us")),
    Aim("split, small 1×1: CPU a request against Envoy", 0.67, _split("small 1×1", "Envoy", "cpu_us")),
    Aim("split, small 4×16: CPU a request against HAProxy", 1.0, _split("small 4×16", "HAProxy", "cpu_us")),
    Aim("split, small 32×1: CPU a request against HAProxy", 1.0, _split("small 32×1", "HAProxy", "cpu_us")),
    Aim("split, small 1×1: p50 against Envoy", 0.65, _split("small 1×1", "Envoy", "p50_ms")),
    Aim("split, small 4×16: p50 against Envoy", 0.65, _split("small 4×16", "Envoy", "p50_ms")),
    Aim("split, 64 KiB: CPU a request against Envoy", 1.0, _split("64 KiB 4×4", "Envoy", "cpu_us")),
    Aim("tiny model, 32 in flight: CPU a request against MLServer", 1 / 30, _tiny("MLServer")),
    Aim(
        "tiny model, 32 in flight: CPU a request against Triton (PyTriton)",
        1 / 15,
        _tiny("Triton (PyTriton)"),
    ),
    Aim("encoder at 80 % load: goodput against the best peer", 1.2, _goodput("80%"), is_least=True),
    Aim("encoder at 95 % load: goodput against the best peer", 1.2, _goodput("95%"), is_least=True),
    Aim("the experiment's cost, model in process", 15, _cost("model in process 4×16"), " % CPU"),
    Aim("the experiment's cost, remote variants", 15, _cost("remote variants 4×16"), " % CPU"),
    Aim("weight change to its effect, median of the flips", 3, _flips, " ms"),
    Aim("requests failed during the flips", 0, _flip_failures, ""),
    Aim("2 workers against 1", 1.7, _growth("workers", "2 workers", "1 worker", "rps"), is_least=True),
    Aim(
        f"CPU a request, {growth.VARIANTS} variants against 2",
        _FLAT,
        _growth("variants", f"{growth.VARIANTS} variants", "2 variants", "cpu_us"),
    ),
    Aim(
        f"CPU a request, {growth.EXPERIMENTS} experiments against 1",
        _FLAT,
        _growth("experiments", f"{growth.EXPERIMENTS} experiments", "1 experiment", "cpu_us"),
    ),
    Aim("memory after a further hour at the last growth, against a third of the way", _FLAT, _memory),
)
