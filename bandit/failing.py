"""Why a candidate has failed: a guardrail that condemns it, or all of them together."""

from __future__ import annotations

from anabranch.bandit.course import Course
from anabranch.bandit.judge import joint_harm
from anabranch.bandit.spec import BanditStep, Role
from anabranch.bandit.verdicts import Outcome


def why_failed(course: Course, candidate: str) -> str:
    """The reasons for which a candidate may get no traffic; empty while there is none.

    An objective that fails is one where it is what the step decides by: in a bandit.
    """
    failures = [
        verdict.reason
        for metric in course.experiment.metrics
        if not metric.dry_run
        if metric.role is Role.GUARDRAIL or isinstance(course.step, BanditStep)
        if (verdict := course.verdict(metric.name, candidate)) is not None
        if verdict.outcome is Outcome.FAIL
    ]
    together = joint_harm(course.experiment, course.state, candidate)
    return "; ".join(failures) or (together or "")
