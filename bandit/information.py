"""How much a second of traffic tells about each claim of an experiment, under stated assumptions.

Every figure is an information rate in nats: what the best possible test would gather. `planner` turns it into time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from anabranch.bandit.bounds import Method, bernoulli_kl, contrast_rate, paired_rate, quantile_rate
from anabranch.bandit.fold import is_compared, is_limited, limit_threshold
from anabranch.bandit.spec import ERROR, FEEDBACK_PREFIX, Direction, Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What is taken to be true of the traffic and of the candidates; all shares in [0, 1].

    Attributes:
        requests_per_s: Routed to the model, above 0.
        error_rate: Of every variant.
        accuracy: Mean of every feedback of every variant, as a share of its range.
        deviation: Standard deviation of a graded feedback, as a share of its range.
        discordance: Share of mirrored pairs whose feedback differs.
        agreement: Share of mirrored pairs with the baseline's top class.
        label_share: Share of requests that get feedback.
        latency_spread: Standard deviation of the logarithm of a latency, above 0.
        speedup: How much lower a candidate's latency is, as a share of the baseline's.
        gain: How much better a candidate is in an objective that is no latency, as a share of its range.
        within_limit: Share of requests within a latency limit.
    """

    requests_per_s: float
    error_rate: float = 0.001
    accuracy: float = 0.9
    deviation: float = 0.2
    discordance: float = 0.05
    agreement: float = 0.99
    label_share: float = 1.0
    latency_spread: float = 0.5
    speedup: float = 0.2
    gain: float = 0.02
    within_limit: float = 0.998

    def __post_init__(self) -> None:
        """Refuse shares that are none and traffic that is none."""
        if not (self.requests_per_s > 0.0 and self.latency_spread > 0.0):
            raise ValueError(
                f"{self.requests_per_s} requests a second with a latency spread of {self.latency_spread}: "
                "both must be positive"
            )
        for name in ("error_rate", "accuracy", "deviation", "discordance", "agreement", "label_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1]: 2 % is 0.02")
        for name in ("speedup", "gain", "within_limit"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must lie in [0, 1): 20 % is 0.2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What candidates see at one moment.

    Attributes:
        weight: Each candidate's share of the traffic.
        baseline: The baseline's share.
        mirrored: Share of requests that are copied.
    """

    weight: float
    baseline: float
    mirrored: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One test that a claim waits for, and what it gathers in a second."""

    method: Method
    nats_per_s: float


def gauges(metric: Metric, assumed: Assumptions, exposure: Exposure) -> tuple[Gauge, ...]:
    """The tests that must reach their evidence before a metric passes; empty when nothing is asked of it."""
    if metric.is_long_tailed and is_compared(metric):
        return _latency_gauges(metric, assumed, exposure)
    if is_limited(metric):
        nats = _limited_nats(metric, assumed, exposure)
        return (Gauge(method=Method.UNPLANNED_BETTING, nats_per_s=nats * assumed.requests_per_s),)
    if not is_compared(metric):
        return ()
    is_planned = metric.non_inferiority_margin is not None
    nats = _split_nats(metric, assumed, exposure) + _paired_nats(metric, assumed, exposure)
    return (
        Gauge(
            method=Method.BETTING if is_planned else Method.UNPLANNED_BETTING,
            nats_per_s=nats * assumed.requests_per_s,
        ),
    )


def _share_labelled(metric: Metric, assumed: Assumptions) -> float:
    return assumed.label_share if metric.source.startswith(FEEDBACK_PREFIX) else 1.0


def _mean(metric: Metric, assumed: Assumptions) -> float:
    """Of a bounded metric, as a share of its range, higher is better."""
    if metric.source == ERROR:
        return 1.0 - assumed.error_rate
    if metric.is_fidelity:
        return assumed.agreement
    return assumed.accuracy


def _limited_nats(metric: Metric, assumed: Assumptions, exposure: Exposure) -> float:
    if metric.is_long_tailed:
        share, threshold = assumed.within_limit, limit_threshold(metric)
    else:
        share = _mean(metric, assumed)
        threshold = (limit_threshold(metric) - metric.low) / (metric.high - metric.low)
    seen = exposure.mirrored if metric.is_fidelity else exposure.weight
    nats = bernoulli_kl(share, threshold) if share > threshold else 0.0
    return seen * _share_labelled(metric, assumed) * nats


def _split_nats(metric: Metric, assumed: Assumptions, exposure: Exposure) -> float:
    if not (exposure.weight > 0.0 and exposure.baseline > 0.0):
        return 0.0
    margin = (metric.non_inferiority_margin or 0.0) / (metric.high - metric.low)
    gain = 0.0 if metric.non_inferiority_margin is not None else assumed.gain
    share = (1.0 - exposure.mirrored) * _share_labelled(metric, assumed)
    mean = _mean(metric, assumed)
    if metric.is_graded:
        variance = assumed.deviation**2 * (1.0 / exposure.weight + 1.0 / exposure.baseline)
        return share * (margin + gain) ** 2 / (2.0 * variance) if variance > 0.0 else math.inf
    return share * contrast_rate(
        p_v=min(mean + gain, 1.0), p_c=mean, margin=margin, pi_v=exposure.weight, pi_c=exposure.baseline
    )


def _paired_nats(metric: Metric, assumed: Assumptions, exposure: Exposure) -> float:
    if not (metric.is_paired and exposure.mirrored > 0.0):
        return 0.0
    gain = 0.0 if metric.non_inferiority_margin is not None else assumed.gain
    discordance = max(assumed.discordance, gain, 1e-6)
    nats = paired_rate(discordance=discordance, effect=gain, margin=metric.non_inferiority_margin or 0.0)
    return exposure.mirrored * assumed.label_share * nats


def _latency_gauges(metric: Metric, assumed: Assumptions, exposure: Exposure) -> tuple[Gauge, ...]:
    tau = metric.statistic.quantile
    assert tau is not None
    split = place = 0.0
    if exposure.weight > 0.0 and exposure.baseline > 0.0 and metric.direction is Direction.MIN:
        at = float(special.ndtri(tau))
        shift = -math.log1p(-assumed.speedup) / assumed.latency_spread
        split = contrast_rate(
            p_v=float(special.ndtr(at + shift)),
            p_c=tau,
            margin=0.0,
            pi_v=exposure.weight,
            pi_c=exposure.baseline,
        )
        places: Sequence[float] = np.linspace(at - shift, at, 201).tolist()
        place = quantile_rate(
            below_v=special.ndtr(np.asarray(places) + shift),
            below_c=special.ndtr(np.asarray(places)),
            tau=tau,
            pi_v=exposure.weight,
            pi_c=exposure.baseline,
        )
    return (
        Gauge(method=Method.UNPLANNED_BETTING, nats_per_s=split * assumed.requests_per_s),
        Gauge(method=Method.QUANTILE, nats_per_s=place * assumed.requests_per_s),
    )
