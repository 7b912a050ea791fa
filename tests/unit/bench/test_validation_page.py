import xml.dom.minidom
from dataclasses import asdict
from pathlib import Path

import pytest

from anabranch.bandit.validation.checks import Check, not_run, number_check, rate_check
from anabranch.bandit.validation.registry import Form, chosen
from anabranch.cli.output import json_line
from anabranch.cli.simulating import Finished, Plan, header
from bench.validation import __main__ as page
from bench.validation.dot_plot import dot_plot


def results(tmp_path: Path, *checks: Check) -> Path:
    """A file of results in which one cell found these checks."""
    file = tmp_path / "results.jsonl"
    cell = chosen(Form.SHORT)[0]
    one = Finished(cell=cell.key, seed=1, replications=cell.short, seconds=60.0, checks=checks)
    file.write_text(f"{json_line(header(Plan(form=Form.SHORT, seed=1)))}\n{json_line(asdict(one))}\n")
    return file


def written(tmp_path: Path, *checks: Check) -> str:
    """The page after the results were written into it."""
    document = tmp_path / "page.md"
    document.write_text(f"# Before\n\n{page.BEGIN}\nearlier\n{page.END}\n\nafter\n")
    page.main(results(tmp_path, *checks), document)
    return document.read_text()


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Reasons of this test alone."""
    own: dict[str, str] = {}
    monkeypatch.setattr(page, "REASONS", own)
    return own


def test_results_stand_between_the_markers(tmp_path: Path, reasons: dict[str, str]) -> None:
    text = written(tmp_path, rate_check("V2", "false promotion", 3, 100, 0.05, rivals={"z, peeking": 0.4}))
    assert text.startswith("# Before\n")
    assert text.endswith("\nafter\n")
    assert "earlier" not in text
    assert "| V2 | false promotion | 0.03 | 0.00439 | ≤ 0.05 | ✓ | 100 | z, peeking 0.4 |" in text
    assert "Not in this file:" in text
    assert not reasons


def test_a_miss_needs_a_reason(tmp_path: Path, reasons: dict[str, str]) -> None:
    with pytest.raises(SystemExit, match="no reason is written for V3 slow: 3"):
        written(tmp_path, number_check("V3", "slow", 3.0, 2.0))
    reasons["slow"] = "it is"
    assert "| V3 | slow | 3 | ≤ 2 | +50% | fails | it is |" in written(
        tmp_path, number_check("V3", "slow", 3.0, 2.0)
    )


def test_a_reason_needs_a_miss(tmp_path: Path, reasons: dict[str, str]) -> None:
    reasons["slow"] = "it was"
    with pytest.raises(SystemExit, match="reasons without a miss"):
        written(tmp_path, number_check("V3", "slow", 1.0, 2.0))


def test_what_was_not_run_is_named(tmp_path: Path, reasons: dict[str, str]) -> None:
    text = written(tmp_path, not_run("V9", "a warning", 0.99, "there is none"))
    assert "- V9, a warning: there is none." in text
    assert not reasons


def test_every_row_has_a_promise() -> None:
    assert {cell.row for cell in chosen(Form.LONG)} <= page.PROMISES.keys()


def test_a_plot_is_well_formed_and_shows_every_value() -> None:
    plot = dot_plot("A < B", [("one & two", {"ours": 0.1, "theirs": 3.0})], target=0.5, largest=1.0)
    xml.dom.minidom.parseString(plot)
    assert plot.count("<circle") == 4
    assert "A &lt; B" in plot
