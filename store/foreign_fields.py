"""Fields that other systems have and this one refuses, each with the reason and what to write instead."""

from __future__ import annotations

from typing import Final

_TESTS: Final = "evidence is judged at every tick by tests that hold at any time"

_ANALYSIS: Final = {
    "interval": f"{_TESTS}: there is no interval between measurements, remove it",
    "initialDelay": f"{_TESTS}: write minDuration for the least time, warm-up happens before the first request",
    "count": f"{_TESTS}: nothing is counted to a fixed number, write maxDuration for an end",
    "failureLimit": "a FAIL is a proof with the error rollbackDelta, and not one noisy measurement: one is enough; "
    "set spec.rollbackDelta lower to be asked for more proof",
    "inconclusiveLimit": "INCONCLUSIVE means that more data is needed, and holds: write maxDuration for an end",
    "consecutiveErrorLimit": "ERROR means that a measurement broke: it holds and never condemns a variant; "
    "write maxDuration for an end",
    "consecutiveSuccessLimit": f"{_TESTS}: a PASS is a proof, one is enough; set spec.delta lower to be asked for more",
    "successCondition": "a metric says what must hold: min, max or nonInferiorityMargin in spec.metrics",
    "failureCondition": "a metric says what must hold: min, max or nonInferiorityMargin in spec.metrics",
    "threshold": "a FAIL is a proof, and not one noisy measurement: one is enough; see spec.rollbackDelta",
}
"""Argo Rollouts' and Flagger's fields of an analysis or a metric."""

_WEBHOOKS: Final = {
    "consecutiveErrorLimit": "a gate that gives no clear answer holds, and never condemns a variant: remove it",
    "initialDelay": "a gate is asked when the experiment reaches it: put a pause step before it",
    "metadata": "the body says what the gate is asked about: put your own parameters into the url",
}


def why_not(location: tuple[int | str, ...]) -> str:
    """Why a field that another system has is refused here; empty for one that nobody has.

    Args:
        location: Its place in the document.
    """
    name = str(location[-1])
    if any(part in ("gate", "gates", "webhook", "notifications") for part in location[:-1]):
        return _WEBHOOKS.get(name, "")
    if any(part in ("analysis", "metrics") for part in location[:-1]) or location[:-1] == ("spec",):
        return _ANALYSIS.get(name, "")
    return ""
