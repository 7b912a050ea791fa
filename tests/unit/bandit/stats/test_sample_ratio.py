import json
import math
from dataclasses import asdict

import pytest

from anabranch.bandit.srm import ALERT_LOG_E, BLOCK_LOG_E, SrmTest, UnitCell

TEST = SrmTest(arms=("fp32", "fp16", "int8"))
WEIGHTS = {"fp32": 0.9, "fp16": 0.05, "int8": 0.05}


def log_e(*cells: UnitCell, test: SrmTest = TEST) -> float:
    return test.log_e(test.advance(test.start(), cells))


def test_no_units_are_no_evidence() -> None:
    assert log_e() == pytest.approx(0.0, abs=1e-12)


def test_units_as_the_weights_say_are_evidence_for_the_weights() -> None:
    assert log_e(UnitCell(weights=WEIGHTS, units={"fp32": 9000, "fp16": 500, "int8": 500})) < 0.0


def test_a_variant_that_loses_a_third_of_its_units_blocks_a_promotion() -> None:
    cell = UnitCell(weights=WEIGHTS, units={"fp32": 18_000, "fp16": 1_000, "int8": 667})
    assert log_e(cell) > BLOCK_LOG_E > ALERT_LOG_E


def test_renaming_and_reordering_arms_changes_nothing() -> None:
    cell = UnitCell(weights=WEIGHTS, units={"fp32": 880, "fp16": 70, "int8": 50})
    assert log_e(cell) == pytest.approx(log_e(cell, test=SrmTest(arms=("int8", "fp32", "fp16"))), abs=1e-9)


def test_replicas_may_be_merged_or_not() -> None:
    parts = [UnitCell(weights=WEIGHTS, units={"fp32": 90 + k, "fp16": 5, "int8": 7}) for k in range(4)]
    whole = UnitCell(weights=WEIGHTS, units={"fp32": 366, "fp16": 20, "int8": 28})
    assert log_e(*parts) == pytest.approx(log_e(whole), abs=1e-9)
    assert log_e(*reversed(parts)) == pytest.approx(log_e(whole), abs=1e-9)


def test_a_unit_in_an_arm_of_weight_zero_is_proof() -> None:
    weights = {"fp32": 1.0, "fp16": 0.0, "int8": 0.0}
    assert log_e(UnitCell(weights=weights, units={"fp32": 10})) == pytest.approx(0.0, abs=1e-12)
    assert log_e(UnitCell(weights=weights, units={"fp32": 10, "int8": 1})) == math.inf


def test_the_state_is_plain_numbers() -> None:
    state = TEST.advance(TEST.start(), [UnitCell(weights=WEIGHTS, units={"fp32": 9})])
    assert json.loads(json.dumps(asdict(state)))["log_ratios"][0][0] == state.log_ratios[0][0]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (UnitCell(weights={"fp32": 0.5, "fp16": 0.4}, units={}), "sum to 0.9"),
        (UnitCell(weights={"fp32": 0.5, "bf16": 0.5}, units={}), r"arms \['bf16'\] are not in the test"),
        (UnitCell(weights=WEIGHTS, units={"fp32": -1}), "must not be negative"),
        (UnitCell(weights={"fp32": 1.5, "fp16": -0.5}, units={}), "must be at least 0"),
    ],
)
def test_impossible_cells_are_refused(cell: UnitCell, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_e(cell)


def test_a_test_needs_two_different_arms() -> None:
    with pytest.raises(ValueError, match="two or more different names"):
        SrmTest(arms=("fp32", "fp32"))
