"""What is wrong with a metric's `labelWindow`, and what is probably not meant by it."""

from __future__ import annotations

from anabranch.bandit import spec
from anabranch.store.document_schema import MetricDocument, SpecDocument


def label_window_problems(at: str, metric: MetricDocument) -> list[str]:
    """Problems of one metric.

    Args:
        at: Its path in the document.
        metric: As written.
    """
    if metric.label_window is None:
        if metric.unlabelled is None:
            return []
        return [
            f"{at}: unlabelled {metric.unlabelled} says what counts when a labelWindow closes, and there is none: "
            "set labelWindow or remove it"
        ]
    if not metric.source.startswith(spec.FEEDBACK_PREFIX):
        return [f"{at}: labelWindow is for feedback, {metric.source} is known with the answer: remove it"]
    if not metric.label_window > 0.0:
        return [f"{at}: labelWindow must be above 0: give the time in which nearly all labels have come"]
    return []


def label_window_warnings(body: SpecDocument) -> list[str]:
    """Steps that end before the first window closes: what waits for labels cannot be decided in them."""
    found = []
    windows = {
        metric.name: metric.label_window
        for metric in body.metrics
        if metric.label_window is not None and metric.role is not spec.Role.SIGNAL and not metric.dry_run
    }
    for index, step in enumerate(body.steps):
        timed = step.analysis or step.bandit or step.mirror
        if timed is None or timed.max_duration is None:
            continue
        key = "analysis" if step.analysis else "bandit" if step.bandit else "mirror"
        asked = (
            windows if step.mirror is None else {k: v for k, v in windows.items() if k in step.mirror.until}
        )
        found += [
            f"spec.steps[{index}].{key}.maxDuration: {timed.max_duration:g} s are over before a label window of {name} "
            f"({window:g} s) closes: give it the window and the time to decide"
            for name, window in asked.items()
            if timed.max_duration <= window
        ]
    return found
