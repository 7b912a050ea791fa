import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anabranch.bandit.decision import Command, Verb
from anabranch.store.ledger_port import Tenure

Begin = Callable[..., None]
Shell = Any


def test_one_decision_is_verified_and_an_unknown_one_is_not_found(shell: Shell, live: Begin) -> None:
    live(ticks=5)
    ran = shell("verify", "tiny", "--decision", "1")
    assert (ran.code, ran.out) == (0, "tiny: decision 1 matches\n")
    assert shell("verify", "tiny", "--decision", "999").code == 3


def test_the_chain_is_verified_without_taking_decisions_again(shell: Shell, live: Begin) -> None:
    live(ticks=5)
    ran = shell("verify", "tiny", "--chain")
    assert ran.code == 0
    assert "every hash follows from the one before it" in ran.out
    assert "recomputed" not in ran.out


def test_either_a_name_or_a_certificate_is_verified(shell: Shell) -> None:
    assert shell("verify").code == 2


def test_a_certificate_is_verified_without_the_store(shell: Shell, live: Begin, tmp_path: Path) -> None:
    live(commands={3: [Command(id=0, verb=Verb.PAUSE, actor="ada")]}, ticks=6)
    proof = shell("certificate", "tiny").out
    path = tmp_path / "proof.json"
    path.write_text(proof)
    ran = shell("verify", "--certificate", str(path))
    assert ran.code == 0
    assert "of tiny follows from its evidence" in ran.out
    forged = json.loads(proof)
    pair = next(part["pairs"][0] for part in forged["evidence"] if part["pairs"])
    pair["metrics"]["mirror.top1_agreement"]["0"] += 1000
    path.write_text(json.dumps(forged))
    ran = shell("verify", "--certificate", str(path))
    assert ran.code == 1
    assert "the evidence gives" in ran.err
    path.write_text("{}")
    assert "is no certificate" in shell("verify", "--certificate", str(path)).err


def test_policies_are_replayed_over_the_log(shell: Shell, live: Begin) -> None:
    live(ticks=60)
    ran = shell("replay", "tiny", "--policy", "uniform", "--policy", "fp32", "-o", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [each["policy"] for each in found["policies"]] == ["logged", "uniform", "fp32"]
    assert found["policies"][2]["weights"]["fp32"] == 1.0
    assert set(found["policies"][0]["estimates"]) == {"ips", "snips", "dr"}
    table = shell("replay", "tiny", "--policy", "fp32")
    assert "SNIPS" in table.out
    assert shell("replay", "tiny", "--policy", "epsilon").code == 2
    assert shell("replay", "tiny", "--metric", "nothing").code == 3


def test_a_models_history_says_who_served_when_and_why(shell: Shell, live: Begin) -> None:
    live(ticks=2)
    store = shell.store()
    assert store.ledger.tenures("digits") == []
    store.set_baseline("digits", "int8", 60.0)
    ran = shell("history", "--model", "digits", "-o", "json")
    assert json.loads(ran.out) == [
        {"model": "digits", "since_s": 60.0, "variant": "int8", "experiment": "", "decision": 0, "reason": ""}
    ]
    assert "a person" in shell("history", "--model", "digits").out
    assert store.ledger.tenures("digits") == [Tenure(model="digits", since_s=60.0, variant="int8")]
    assert "nothing of other was promoted" in shell("history", "--model", "other").err
    assert shell("history").code == shell("history", "tiny", "--model", "digits").code == 2
