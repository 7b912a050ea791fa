"""Outcomes of earlier answers, and what an answer says of its assignment.

Nothing here loads the inference protocol's messages, so it lives beside `tritonclient` in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anabranch.client.asks import MOST_OUTCOMES
from anabranch.proto import feedback_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an answer says of itself.

    Attributes:
        variant: Who answered.
        id: Names the request in feedback; None outside an experiment.
        experiment: The experiment's name; None outside one.
    """

    variant: str
    id: str | None = None
    experiment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became known about an answer: exactly one of `label`, `correct` and `value`.

    Attributes:
        assignment_id: From the answer.
        label: The true class.
        correct: Whether the answer was right, or any yes or no.
        value: A number, within the metric's range.
        metric: The name after `feedback.` in the experiment.
    """

    assignment_id: str
    label: int | None = None
    correct: bool | None = None
    value: float | None = None
    metric: str = "correct"

    def __post_init__(self) -> None:
        """Refuse an outcome that says nothing, or two things."""
        given = [name for name in ("label", "correct", "value") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"an outcome has exactly one of label, correct and value; given: {', '.join(given) or 'none'}"
            )


def assignment_of(answer: Any) -> Assignment | None:
    """What an answer says of its assignment; None where it names no variant.

    Args:
        answer: A `ModelInferResponse`, the `InferResult` of tritonclient, or the initial metadata of a call.
    """
    if hasattr(answer, "get_response"):
        answer = answer.get_response()
    parameters = getattr(answer, "parameters", None)
    found: Mapping[str, str]
    if parameters is not None:
        names = ("invoked_variant", "assignment_id", "experiment")
        found = {name: parameters[name].string_param for name in names if name in parameters}
    else:
        pairs: Iterable[Sequence[Any]] = answer or ()
        given = {str(pair[0]): str(pair[1]) for pair in pairs}
        found = {
            name: given[key]
            for name, key in (
                ("invoked_variant", "x-invoked-variant"),
                ("assignment_id", "x-assignment-id"),
                ("experiment", "x-experiment"),
            )
            if key in given
        }
    if not found.get("invoked_variant"):
        return None
    return Assignment(
        variant=found["invoked_variant"],
        id=found.get("assignment_id") or None,
        experiment=found.get("experiment") or None,
    )


def batches(outcomes: Iterable[Outcome]) -> Iterator[list[feedback_pb2.Outcome]]:
    """Outcomes as messages, as many at a time as a call takes."""
    batch: list[feedback_pb2.Outcome] = []
    for outcome in outcomes:
        batch.append(_message(outcome))
        if len(batch) == MOST_OUTCOMES:
            yield batch
            batch = []
    if batch:
        yield batch


def _message(outcome: Outcome) -> feedback_pb2.Outcome:
    message = feedback_pb2.Outcome(assignment_id=outcome.assignment_id, metric=outcome.metric)
    if outcome.label is not None:
        message.label = outcome.label
    elif outcome.correct is not None:
        message.correct = outcome.correct
    elif outcome.value is not None:
        message.value = outcome.value
    return message
