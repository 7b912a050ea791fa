"""An experiment runs to its end by itself, and what it decided can be read back."""

import json
from collections.abc import Callable
from typing import Any

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]

FIDELITY = {"name": "fidelity", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.9}
ACCURACY = {
    "name": "accuracy",
    "source": "feedback.correct",
    "role": "guardrail",
    "nonInferiorityMargin": 0.1,
}
LATENCY = {"name": "latency", "source": "latency_ms", "role": "objective", "statistic": "p50"}
STEPS = [
    {
        "mirror": {
            "percent": 100,
            "until": {"fidelity": "decided", "accuracy": "decided"},
            "maxDuration": "2m",
        }
    },
    {"setWeight": 5},
    {"pause": {"duration": "500ms"}},
    {"bandit": {"maxWeight": 50, "minProb": 0.1, "updatePeriod": "500ms", "maxDuration": "2m"}},
    {"promote": {"steps": [75, 100], "interval": "300ms", "bake": "300ms"}},
]


def test_a_faster_candidate_with_the_same_answers_is_promoted(serve: Serve, experiment: Make) -> None:
    served = serve()
    document = experiment("faster", ["plain"], STEPS, [LATENCY, FIDELITY, ACCURACY], delta=0.1)
    path = served.state / "faster.json"
    path.write_text(json.dumps(document))
    served.cli("apply", "-f", str(path))
    with served.traffic() as traffic:
        assert served.until_over("faster") == "Promoted", served.cli("describe", "faster")
        answered_before = len(traffic.answered())
        client = served.client()
        after = client.infer(0)
    assert all(reply.is_ok for reply in traffic.replies)
    assert traffic.problems == []
    assert answered_before > 0
    assert {reply.variant for reply in traffic.replies} == {"plain", "wide"}
    assert after.variant == "plain"

    seen = json.loads(served.cli("get", "faster", "-o", "json"))
    assert seen["phase"] == "Promoted"
    assert "plain" in served.cli("describe", "faster")
    decisions = json.loads(served.cli("history", "faster", "-o", "json"))
    assert len(decisions) >= 5
    report = served.cli("report", "faster")
    assert "plain" in report
    served.cli("verify", "faster")
    assert served.stop() == 0

    again = serve()
    assert again.client().infer(1).variant == "plain"


def test_a_candidate_with_corrupted_weights_is_rolled_back_with_the_reason(
    serve: Serve, experiment: Make
) -> None:
    served = serve()
    served.apply(experiment("corrupted", ["corrupt"], STEPS, [LATENCY, FIDELITY, ACCURACY]))
    with served.traffic() as traffic:
        assert served.until_over("corrupted") == "RolledBack"
    assert {reply.variant for reply in traffic.replies} == {"wide"}
    assert served.client().infer(0).variant == "wide"
    told = served.cli("describe", "corrupted")
    assert "fidelity" in told
    removed = served.experiment("corrupted").state.removed
    assert [removal.variant for removal in removed] == ["corrupt"]
    assert "fidelity" in removed[0].reason
    served.cli("verify", "corrupted")
