from types import SimpleNamespace
from typing import Any, cast

import pytest

from anabranch.bandit.lifecycle import Phase
from anabranch.router.served import reload_problems

SPEC = {
    "apiVersion": "anabranch/v1",
    "kind": "Experiment",
    "metadata": {"name": "trial"},
    "spec": {
        "model": "m",
        "baseline": "base",
        "candidates": ["fast"],
        "metrics": [{"name": "errors", "source": "error", "role": "guardrail", "max": 0.2}],
        "steps": [{"setWeight": 10}, {"pause": {}}],
    },
}


def experiment(phase: Phase = Phase.PROGRESSING) -> Any:
    return SimpleNamespace(name="trial", document=SPEC, state=SimpleNamespace(phase=phase))


def manifests(*names: str, files: Any = "as built", signatures: Any = ("s",)) -> Any:
    made = {name: SimpleNamespace(signatures=signatures, outputs=(), files=files) for name in names}
    return cast(Any, {"m": made})


OLD = manifests("base", "fast")


def test_an_experiment_goes_on_when_its_variants_are_there_as_they_were() -> None:
    assert reload_problems([experiment()], OLD, manifests("base", "fast", "new")) == []


def test_a_running_experiment_needs_every_variant() -> None:
    (problem,) = reload_problems([experiment()], OLD, manifests("base"))
    assert "experiment trial is running" in problem
    assert "'fast'" in problem


def test_the_files_of_a_running_experiment_may_not_change() -> None:
    found = reload_problems([experiment()], OLD, manifests("base", "fast", files="built again"))
    assert len(found) == 2
    assert "the files of m/fast have changed" in found[1]


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.PROMOTED, Phase.ROLLED_BACK])
def test_an_experiment_that_does_not_run_needs_nothing(phase: Phase) -> None:
    assert reload_problems([experiment(phase)], OLD, manifests("other")) == []
