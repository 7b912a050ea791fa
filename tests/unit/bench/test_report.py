"""Results to tables: medians and ranges, ratios, aims met and missed, peers that could not be measured."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.dataplane import report
from bench.dataplane.aims import AIMS
from bench.dataplane.plots import bars
from bench.dataplane.results import Results, Spread

_CASE = "small 4×16"


def _line(peer: str, rep: int, cpu_us: float, **fields: Any) -> dict[str, Any]:
    result = {
        "cpu_us": cpu_us,
        "rps": 1e6 / cpu_us,
        "p50_ms": cpu_us / 10,
        "p99_ms": 9.0,
        "lag_p99_ms": 0.1,
        "rss_mib": 20.0,
        "failed": 0,
    }
    return {
        "bench": "dataplane",
        "scenario": "split",
        "case": _CASE,
        "peer": peer,
        "rep": rep,
        "at": "2026-11-24T12:00:00+00:00",
        "commit": "abc",
        "is_clean": True,
        "machine": {"cpu": "x", "cores": 2, "kernel": "6", "python": "3.11", "versions": {"ngh2": "0.3.0"}},
        "version": f"{peer} 1.0",
        "result": result,
        **fields,
    }


@pytest.fixture
def results_file(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    lines = [_line("Envoy", rep, cpu) for rep, cpu in enumerate((40.0, 50.0, 45.0))]
    lines += [_line("Anabranch", rep, cpu) for rep, cpu in enumerate((26.4, 27.0, 36.0))]
    missing = _line("nginx", 0, 1.0, case="", unavailable="nginx is missing: `apt-get install nginx`")
    del missing["result"]
    path.write_text("\n".join(json.dumps(line) for line in [*lines, missing]))
    return path


def test_a_figure_is_the_median_with_its_range(results_file: Path) -> None:
    results = Results([results_file])
    spread = results.spread("split", _CASE, "Envoy", "cpu_us")
    assert spread is not None
    assert spread.text() == "45.0 [40.0–50.0]"


def test_a_ratio_is_the_median_of_those_within_one_repetition(results_file: Path) -> None:
    results = Results([results_file])
    assert results.ratio("split", _CASE, "Anabranch", "Envoy", "cpu_us") == pytest.approx(26.4 / 40)


def test_a_scenario_that_was_run_again_replaces_what_was(results_file: Path, tmp_path: Path) -> None:
    newer, other = tmp_path / "newer.jsonl", tmp_path / "other.jsonl"
    newer.write_text(json.dumps(_line("Envoy", 0, 10.0)))
    other.write_text(json.dumps(_line("Envoy", 0, 5.0, scenario="tiny")))
    results = Results([results_file, newer, other])
    spread = results.spread("split", _CASE, "Envoy", "cpu_us")
    assert spread is not None
    assert spread.text() == "10.0 [10.0–10.0]"
    assert not results.of("split", _CASE, "Anabranch")
    assert results.has("tiny")


def test_an_aim_says_by_how_much_it_is_missed(results_file: Path) -> None:
    rows = {aim.what: aim.row(Results([results_file])) for aim in AIMS}
    assert "| 0.66× | met |" in rows["split, small 4×16: CPU a request against Envoy"]
    assert "falls short by a factor of 1.02" in rows["split, small 4×16: p50 against Envoy"]
    assert "not measured" in rows["split, small 4×16: CPU a request against HAProxy"]


def test_the_page_keeps_its_prose_and_names_whom_it_could_not_measure(
    results_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "PLOTS", tmp_path / "performance")
    monkeypatch.setattr(report, "REPOSITORY", tmp_path)
    for _ in range(2):
        report.write_page([results_file], lambda _line: None)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| **Anabranch** | 27.0 [26.4–36.0] |" in text
    assert "- nginx: nginx is missing: `apt-get install nginx`" in text
    assert "![" in text


def test_a_page_without_markers_is_refused(
    results_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "performance.md"
    page.write_text("prose")
    monkeypatch.setattr(report, "PAGE", page)
    with pytest.raises(ValueError, match="must have the lines"):
        report.write_page([results_file], lambda _line: None)


def test_a_chart_has_a_bar_for_everyone_longest_last() -> None:
    text = bars("CPU & more", [("slow", Spread((90.0, 110.0, 100.0))), ("fast", Spread((10.0,)))])
    rects = ElementTree.fromstring(text).findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(rect.attrib["width"]) for rect in rects]
    assert len(widths) == 2
    assert widths[1] == pytest.approx(10 * widths[0], rel=0.01)
