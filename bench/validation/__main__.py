"""Write the results of `anabranch simulate` into docs/statistics.md, between its markers, with pictures.

    python -m bench.validation bench/results/validation-long.jsonl docs/statistics.md

Every number comes from the file of results. Only the reasons for misses are written here, by hand; a miss without a
reason stops the script, and so does a reason without a miss.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anabranch.bandit.validation.checks import Check, Sense
from anabranch.bandit.validation.registry import ROWS, Form, chosen
from anabranch.cli.simulating import Finished, Plan, in_order, read_file
from anabranch.cli.simulating_views import figure
from bench.validation.dot_plot import Series, dot_plot

BEGIN, END = "<!-- results: begin (python -m bench.validation) -->", "<!-- results: end -->"

PROMISES = {
    "V1": "Equal arms, a look at every request: false claims",
    "V2": "A variant worse by the margin, a look at every request: false promotions",
    "V3": "Non-inferiority: mean stopping time over the information lower bound",
    "V4": "Mirrored pairs: errors, stopping time, and against a split",
    "V5": "Latency quantile ratios: errors, stopping time, bucket error",
    "V6": "Intervals under Thompson sampling: ever outside",
    "V7": "Drift with ramps and bandits: false decisions and bias",
    "V8": "Users that come back: false decisions by analysis",
    "V9": "Autocorrelated and queueing latency: false decisions",
    "V10": "Best of several arms: errors and stopping time beside track-and-stop",
    "V11": "Fastest accurate arm, the whole loop: errors and requests",
    "V12": "Nearly equal arms: wrong winner",
    "V13": "Guardrail at a 5 % canary, error .01: detection and false rollback",
    "V14": "Sample ratio under changing weights: false mismatches and power",
    "V15": "Late labels: false decisions and bias",
    "V16": "Off-policy estimates: arithmetic, bias, coverage",
    "V17": "Change points: regret and recovery",
    "V18": "What must not matter: largest change of a log e-value",
    "V19": "Reference values of confseq",
    "V20": "Speed and size, on the machine of the run",
    "B1": "Pareto tails of index 1.5",
    "B2": "Rare stalls of 250 times the median",
    "B3": "Batches that end together",
    "B4": "Strong autocorrelation that all arms share",
    "B5": "Latency that follows the candidate's own load",
    "B6": "A candidate that decays after an hour",
    "B7": "Labels that depend on the variant",
    "B8": "Weights that flip every epoch",
    "B9": "Replicas that lag by an epoch",
    "B10": "A metric with two values",
    "B11": "Ten equal variants",
    "B12": "A hundred variants",
}

# By the beginning of a check's name: why its value misses the target.
REASONS: dict[str, str] = {
    "requests of a 50/50 split over pairs, discordance=0.04": "the more pairs differ, the less pairing saves: at 4 % the "
    "information bounds themselves are 4.6 apart",
    "mean stop over lower bound, p99 below 1.05, truth 0.8, pi=0.1": "two mixtures, each with a price, and only a tenth "
    "of the requests in the arm that decides",
    "false decision on p95, isolated pools, own AR(1) 0.9": "see own queues",
    "false decision on p95, isolated pools, own queues": "a queue is a state that a pool's requests share, so that "
    "thousands of requests are a few dozen independent busy spells; the test needs pools that are equally fast at "
    "every moment, given the past. Compare `compute_ms` there (the next check), or switch time slots",
    "false decision on p95, batches of 8 of one arm": "a batch is one observation, counted eight times. Batches that mix "
    "arms are harmless; where batches are of one arm, one request of each is what a test may count",
    "mean stop over track-and-stop, own evidence": "the e-process has a proof at every look and delta is shared by the "
    "rivals; the threshold of track-and-stop, ln((ln t + 1) / delta), has none. With that threshold the same traffic "
    "needs 6 to 7 % more than track-and-stop",
    "mean decision over lower bound, one too inaccurate": "within chance of the target; the removal of the inaccurate arm "
    "comes last, at error .01 shared by three candidates (5.7 nats, the bound counts 3.0)",
    "mean decision over that of equal shares, one too inaccurate": "the split is near the optimal one for an error of .05 "
    "on every answer, which gives the inaccurate arm 7 %; but its removal has an error of .01 and is waited for, and "
    "equal shares give it 25 %",
    "mean decision over lower bound, none accurate": "removals have an error of .01 shared by the candidates (5.3 nats, "
    "the bound counts 3.0) and every candidate must be removed",
    "mean decision over that of equal shares, none accurate": "the split concentrates on the cheapest contrast while all "
    "candidates must be removed, one after the other",
    "a candidate that decays after an hour is rolled back, margin to the baseline, all traffic": "with all traffic on the "
    "candidate there is nothing to compare with: use a limit, or hold traffic back on the baseline",
    "median requests to detection, errors 1.0% to 5.0%, a tick's own design": "a tick does not know the size of the harm "
    "and spreads its capital; planned for it, the test keeps the target",
    "mean detection over lower bound, errors 1.0% to 10.0%, a tick's own design": "as for 5 %",
    "median requests to detection, errors 1.0% to 10.0%, a tick's own design": "as for 5 %",
}


def main(results: Path, document: Path) -> None:
    head, finished = read_file(results)
    form = Form(head["form"])
    ordered = in_order(Plan(form=form, seed=head["seed"]), finished)
    absent = sorted({cell.key for cell in chosen(form)} - {one.cell for one in ordered})
    checks = [check for one in ordered for check in one.checks]
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    pictures = _pictures(checks, document.parent / "images")
    body = "\n".join(
        [
            *_origin(head, ordered, absent, results),
            "",
            *_summary(checks),
            "",
            *pictures,
            *_misses(checks),
            "",
            *_everything(ordered),
        ]
    )
    document.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def _origin(head: Any, finished: Sequence[Finished], absent: Sequence[str], results: Path) -> list[str]:
    seconds = sum(one.seconds for one in finished)
    lines = [
        f"From [`{results.name}`](../{results}), one line a cell, written by",
        "",
        "```sh",
        f"anabranch simulate --suite validation{' --short' if head['form'] == 'short' else ''} --seed {head['seed']} "
        f"--resume {results}",
        "```",
        "",
        f"in {seconds / 60:.0f} minutes of one processor (anabranch {head['anabranch']}, Python {head['python']}, "
        f"numpy {head['numpy']}, scipy {head['scipy']}, {head['machine']}). Every cell's generator is seeded with the "
        "seed and the cell's name, so each can be run again alone.",
    ]
    if absent:
        lines += ["", f"Not in this file: {', '.join(absent)}."]
    return lines


def _summary(checks: Sequence[Check]) -> list[str]:
    lines = ["| row | promise | checks that hold | not run | replications |", "|---|---|---|---|---|"]
    for row in sorted(ROWS, key=lambda name: (name[0] != "V", int(name[1:]))):
        own = [check for check in checks if check.row == row]
        ran = [check for check in own if check.ok is not None]
        runs = sorted({check.replications for check in ran})
        span = f"{runs[0]:,}" if len(runs) == 1 else f"{runs[0]:,} to {runs[-1]:,}" if runs else "-"
        held = f"{sum(bool(check.ok) for check in ran)} of {len(ran)}"
        lines.append(f"| {row} | {PROMISES[row]} | {held} | {len(own) - len(ran) or '-'} | {span} |")
    return lines


def _misses(checks: Sequence[Check]) -> list[str]:
    missed = [check for check in checks if check.ok is False or check.missed]
    used: set[str] = set()
    lines = ["### Missed", ""]
    lines += [
        "A check fails when its 99 % bound is on the wrong side of the target. Values that lie on the wrong side within "
        "the error of the simulation are listed too.",
        "",
        "| row | check | value | target | by | | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for check in missed:
        reason = next((start for start in REASONS if check.name.startswith(start)), None)
        if reason is None and check.ok is False:
            raise SystemExit(
                f"no reason is written for {check.row} {check.name}: {check.value} ({check.note})"
            )
        used |= {reason} if reason else set()
        why = REASONS[reason] if reason else "within chance"
        state = "fails" if check.ok is False else "within chance"
        lines.append(
            f"| {check.row} | {check.name} | {figure(check.value)} | {_target(check)} | {_by(check)} | {state} | {why} |"
        )
    idle = sorted(set(REASONS) - used)
    if idle:
        raise SystemExit(f"reasons without a miss: {idle}")
    skipped = [check for check in checks if check.ok is None]
    if skipped:
        lines += ["", "Not run:", ""]
        lines += [f"- {check.row}, {check.name}: {check.note}." for check in skipped]
    return lines


def _by(check: Check) -> str:
    if check.value is None:
        return "no end"
    if not check.target:
        return figure(check.value)
    return f"{check.value / check.target - 1.0:+.0%}"


def _target(check: Check) -> str:
    return f"{'≤' if check.sense is Sense.AT_MOST else '≥'} {figure(check.target)}"


def _everything(finished: Sequence[Finished]) -> list[str]:
    lines = [
        "### All checks",
        "",
        "<details><summary>Values, bounds, targets, and rivals in the same runs</summary>",
        "",
    ]
    lines += [
        "| row | check | value | bound | target | | runs | rivals |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for check in (check for one in finished for check in one.checks):
        mark = {True: "✓", False: "✗", None: "not run"}[check.ok]
        rivals = ", ".join(f"{name} {figure(value)}" for name, value in check.rivals.items())
        lines.append(
            f"| {check.row} | {check.name} | {figure(check.value)} | {figure(check.bound)} | {_target(check)} | {mark} "
            f"| {check.replications:,} | {rivals} |"
        )
    return [*lines, "", "</details>"]


def _pictures(checks: Sequence[Check], folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for name, title, picture in (
        (
            "validation-equal-arms.svg",
            "False claims between two equal arms in 20,000 requests",
            _equal_arms(checks),
        ),
        (
            "validation-drift.svg",
            "False decisions between two equal arms while their rate drifts",
            _drift(checks),
        ),
        (
            "validation-stopping.svg",
            "Mean requests to prove non-inferiority, over the lower bound",
            _stopping(checks),
        ),
    ):
        (folder / name).write_text(picture, encoding="utf-8")
        lines += [f"![{title}](images/{name})", ""]
    return lines


def _equal_arms(checks: Iterable[Check]) -> str:
    rows: list[tuple[str, Series]] = []
    own = [check for check in checks if check.row == "V1"]
    for first, second in zip(own[::2], own[1::2], strict=True):
        label = first.name.split(", ")[1]
        both = max(first.value or 0.0, second.value or 0.0)
        rows.append((label, {"this engine": both, **first.rivals}))
    return dot_plot(
        "False claims between two equal arms in 20,000 requests, error .05",
        rows,
        target=0.05,
        largest=1.0,
        root=True,
    )


def _drift(checks: Iterable[Check]) -> str:
    rows: list[tuple[str, Series]] = [
        (check.name.removeprefix("false decision, "), {"this engine": check.value or 0.0, **check.rivals})
        for check in checks
        if check.row in ("V7", "B8") and check.name.startswith("false decision")
    ]
    return dot_plot(
        "False decisions between two equal arms while their rate drifts, error .05",
        rows,
        target=0.05,
        largest=1.0,
        root=True,
    )


def _stopping(checks: Iterable[Check]) -> str:
    rows: list[tuple[str, Series]] = [
        (
            check.name.removeprefix("mean stop over lower bound, "),
            {"this engine": check.value or 0.0, **check.rivals},
        )
        for check in checks
        if check.row == "V3" and check.rivals
    ]
    return dot_plot(
        "Mean requests to prove non-inferiority, over the lower bound", rows, target=1.0, largest=3.0
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
