"""What other policies would have earned, as a report and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from anabranch.bandit.counterfactual import LOGGED, Replayed, Reward, default_reward, replay
from anabranch.bandit.evidence import Evidence
from anabranch.bandit.ope import PolicyValue
from anabranch.bandit.spec import Algorithm, Experiment, Metric
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed, did_you_mean
from anabranch.cli.numbers import count
from anabranch.cli.tables import weights_text
from anabranch.store.document import parse
from anabranch.store.port import StoredExperiment


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """Policies over one log.

    Attributes:
        reward: What is earned, in words.
        better: Whether a higher or a lower one is better.
    """

    experiment: str
    metric: str
    reward: str
    better: str
    policies: tuple[Replayed, ...]


def run_replays(
    stored: StoredExperiment,
    log: Sequence[Evidence],
    *,
    policies: Sequence[str],
    metric: str,
    within_ms: float | None,
) -> ReplayReport:
    """Run policies over an experiment's log; the logged weights come first.

    Raises:
        CommandFailed: If there is nothing to replay, or no such policy or metric.
    """
    experiment = parse(stored.document)
    judged = _metric(experiment, metric)
    if not log:
        raise CommandFailed(
            ExitCode.REFUSED, f"{stored.name} has no evidence yet: there is nothing to replay"
        )
    if within_ms is not None and not judged.is_long_tailed:
        raise CommandFailed(
            ExitCode.BAD_INPUT, f"--within is for a latency, {judged.name} is none", "leave it out"
        )
    names = [LOGGED, *(name for name in policies or list(Algorithm) if name != LOGGED)]
    try:
        reward = (
            default_reward(experiment, log, judged)
            if within_ms is None
            else Reward(metric=judged, within_ms=within_ms)
        )
        found = tuple(replay(experiment, log, name, reward) for name in names)
    except ValueError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error
    is_lower = judged.lower_is_better and reward.within_ms is None
    limit = "" if reward.within_ms is None else f" within {reward.within_ms:.4g} ms"
    return ReplayReport(
        experiment=stored.name,
        metric=judged.name,
        reward=f"share of requests{limit}" if limit else f"mean {judged.name}",
        better="lower" if is_lower else "higher",
        policies=found,
    )


def replayed_table(report: ReplayReport) -> Table:
    """A row a policy."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("POLICY", "IPS", "SNIPS", "DR", "REQUESTS", "EFFECTIVE", "LEFT OUT", "LAST WEIGHTS"):
        table.add_column(name, overflow="fold" if name == "LAST WEIGHTS" else "ellipsis")
    for each in report.policies:
        table.add_row(
            each.policy,
            *(_estimate(each.estimates[name]) for name in ("ips", "snips", "dr")),
            count(each.requests),
            count(round(each.effective)),
            count(each.left_out),
            weights_text(each.weights),
        )
    return table


def _estimate(value: PolicyValue) -> str:
    if value.value is None:
        return "no data"
    return f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"


def _metric(experiment: Experiment, name: str) -> Metric:
    if not name:
        if experiment.objective is None:
            raise CommandFailed(
                ExitCode.BAD_INPUT, f"{experiment.name} has no objective", "say what is earned: --metric NAME"
            )
        return experiment.objective
    found = next((metric for metric in experiment.metrics if metric.name == name), None)
    if found is None:
        known = [metric.name for metric in experiment.metrics]
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"there is no metric {name!r}; there are: {', '.join(known)}{did_you_mean(name, known)}",
        )
    return found
