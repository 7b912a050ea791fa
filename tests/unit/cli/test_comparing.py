import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from anabranch.cli.comparing import Quality, compare_variants, cost_per_1k, costs_of
from anabranch.cli.costs import Demands, cheapest_text
from anabranch.cli.failures import CommandFailed
from anabranch.cli.pareto_plots import pareto_svg, pareto_text
from anabranch.variants.build import build
from anabranch.variants.manifest import BatchLatency, Manifest, Parity, load_manifest, read_manifest
from anabranch.variants.own_models import source_from_onnx

Shell = Any
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def models(digits: Any, digits_module: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three measured variants of the digits network, and one layer report."""
    root = tmp_path_factory.mktemp("models")
    digits_module.write_digits_onnx(root / "digits.onnx")
    samples = [{"pixels": row[None]} for row in digits.test_pixels[:200]]
    calibration = [{"pixels": row[None]} for row in digits.train_pixels[:40]]
    labels = digits.test_labels[:200].tolist()
    source = source_from_onnx(
        root / "digits.onnx", "digits", samples=samples, labels=labels, calibration=calibration
    )
    names = ["onnx-fp32", "onnx-int8-dynamic", "onnx-int4-weight-only"]
    build(source, names, root / "built", threads=1, layer_errors=True)
    return root / "built"


def _manifests(models: Path, places: dict[str, tuple[float, float]]) -> list[Manifest]:
    """Variants of given quality and latency."""
    plain = read_manifest(models / "digits" / "onnx-fp32")
    assert plain.task is not None
    return [
        replace(
            plain,
            variant=name,
            task=replace(plain.task, value=quality, low=quality - 0.01, high=min(1.0, quality + 0.01)),
            latency=(BatchLatency(batch_size=1, p50_ms=ms, p95_ms=ms, calls=1, threads=1),),
        )
        for name, (quality, ms) in places.items()
    ]


def test_what_nothing_beats_is_marked_and_the_fastest_comes_first(models: Path) -> None:
    places = {
        "slow": (0.9, 4.0),
        "good": (0.95, 3.0),
        "fast": (0.8, 1.0),
        "bad": (0.7, 2.0),
        "twin": (0.8, 1.0),
    }
    comparison = compare_variants(_manifests(models, places), 1)
    assert {point.variant for point in comparison.points if point.is_best} == {"good", "fast", "twin"}
    assert [point.latency_ms for point in comparison.points] == [1.0, 1.0, 2.0, 3.0, 4.0]
    assert comparison.quality is Quality.ACCURACY


def test_without_labels_agreement_stands_for_quality(models: Path) -> None:
    parity = Parity(
        reference="a",
        requests=100,
        max_abs=0.0,
        top1_agreement=0.97,
        cosine_tensor="y",
        cosine_mean=1.0,
        cosine_min=1.0,
    )
    unlabelled = [
        replace(manifest, task=None, parity=parity) for manifest in _manifests(models, {"a": (0.9, 1.0)})
    ]
    comparison = compare_variants(unlabelled, 1)
    [point] = comparison.points
    assert (comparison.quality, point.quality) == (Quality.AGREEMENT, 0.97)
    assert point.low < 0.97 < point.high


def test_a_variant_that_was_not_measured_is_named_and_a_batch_that_nobody_measured_is_refused(
    models: Path,
) -> None:
    first, second = _manifests(models, {"a": (0.9, 1.0), "b": (0.9, 2.0)})
    assert compare_variants([first, replace(second, latency=())], 1).unmeasured == ("b",)
    with pytest.raises(CommandFailed, match="no variant was measured with batches of 4"):
        compare_variants([first, second], 4)


def test_the_picture_has_a_dot_and_a_label_a_variant_and_larger_dots_for_larger_files(models: Path) -> None:
    small, large = _manifests(models, {"small": (0.9, 1.0), "large<&>": (0.95, 3.0)})
    comparison = compare_variants(
        [replace(small, size_bytes=1_000_000), replace(large, size_bytes=4_000_000)], 1
    )
    document = ET.fromstring(pareto_svg(comparison))
    radii = [float(dot.attrib["r"]) for dot in document.iter(f"{SVG}circle")]
    assert radii == [8.0, 16.0]
    texts = [text.text for text in document.iter(f"{SVG}text")]
    assert {"small", "large<&>"} <= set(texts)
    heights = [
        float(text.attrib["y"]) for text in document.iter(f"{SVG}text") if text.text in ("small", "large<&>")
    ]
    assert abs(heights[0] - heights[1]) >= 13


@pytest.mark.parametrize("count", [1, 2, 60])
def test_any_number_of_variants_is_drawn_inside_the_picture(models: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    places = {f"v{index}": (float(rng.uniform(0.5, 1)), float(rng.uniform(1, 9))) for index in range(count)}
    comparison = compare_variants(_manifests(models, places), 1)
    plot = pareto_text(comparison, 80, 12)
    lines = plot.splitlines()
    assert len(lines) == 1 + 12 + 2 + count
    assert max(map(len, lines)) <= 80
    document = ET.fromstring(pareto_svg(comparison))
    for dot in document.iter(f"{SVG}circle"):
        assert 0 < float(dot.attrib["cx"]) < 760
        assert 0 < float(dot.attrib["cy"]) < 440


def test_variants_are_compared_and_shown_from_the_command_line(
    shell: Shell, models: Path, tmp_path: Path
) -> None:
    ran = shell("variants", "compare", "--models", str(models), "--svg", str(tmp_path / "p.svg"))
    assert ran.code == 0
    assert "accuracy against latency" in ran.out
    assert ET.parse(tmp_path / "p.svg").getroot().tag == f"{SVG}svg"
    points = json.loads(shell("variants", "compare", "digits", "--models", str(models), "-o", "json").out)[
        "points"
    ]
    assert {point["variant"] for point in points} == {
        "onnx-fp32",
        "onnx-int8-dynamic",
        "onnx-int4-weight-only",
    }
    shown = shell("variants", "show", "digits", "onnx-int4-weight-only", "--models", str(models)).out
    assert "linear layers 2 int4-weight" in shown
    assert "offline gate" in shown
    assert "layers by the error that each adds alone" in shown
    listed = shell("variants", "list", "--models", str(models), "-o", "json")
    assert len(json.loads(listed.out)) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "digitz"], "no model 'digitz', did you mean digits?"),
        (["show", "digits", "onnx-int9"], "has no variant 'onnx-int9'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(
    shell: Shell, models: Path, arguments: list[str], said: str
) -> None:
    ran = shell("variants", *arguments, "--models", str(models))
    assert ran.code == 3
    assert said in ran.err


def test_the_cheapest_variant_that_keeps_the_demands_is_named(models: Path) -> None:
    places = {"slow": (0.95, 36.0), "good": (0.9, 18.0), "fast": (0.8, 3.6)}
    comparison = compare_variants(_manifests(models, places), 1)
    by_name = {point.variant: point for point in comparison.points}
    # 1,000 calls of 36 ms are a hundredth of an hour.
    assert cost_per_1k(by_name["slow"], 1, 2.0) == pytest.approx(0.02)
    assert cost_per_1k(by_name["slow"], 8, 2.0) == pytest.approx(0.0025)
    chosen = {
        Demands(): "fast, 0.002 for 1,000 requests, 90% less than slow",
        Demands(min_quality=0.9): "cheapest with at least 90.0% right: good",
        Demands(min_quality=0.9, max_ms=40): "a p95 of at most 40 ms and at least 90.0% right: good",
        Demands(min_quality=0.9, max_ms=10): "no variant keeps a p95 of at most 10 ms and",
    }
    for demands, told in chosen.items():
        assert told in cheapest_text(comparison, 2.0, demands)
    assert "nan" not in cheapest_text(comparison, 0.0, Demands())


def test_costs_are_shown_where_a_price_is_given(models: Path, shell: Shell) -> None:
    shown = shell("variants", "compare", "--models", str(models), "--hourly-price", "2.5")
    assert "COST OF 1,000" in shown.out
    assert "cheapest with no demands: onnx-" in shown.out
    assert "COST" not in shell("variants", "compare", "--models", str(models)).out
    refused = shell("variants", "compare", "--models", str(models), "--max-ms", "5")
    assert refused.code == 2
    assert "give --hourly-price" in refused.err


@pytest.fixture
def priced_models(models: Path, tmp_path: Path, shell: Shell) -> Path:
    """The variants, two of three with a price."""
    own = tmp_path / "priced"
    shutil.copytree(models, own)
    for variant, price in (("onnx-fp32", "0.2"), ("onnx-int8-dynamic", "0.05")):
        ran = shell("variants", "price", "digits", variant, price, "--models", str(own))
        assert (ran.code, ran.out) == (0, f"digits/{variant} costs {price} an hour\n")
    return own


def test_a_price_is_kept_in_the_manifest_and_shown(priced_models: Path, shell: Shell, models: Path) -> None:
    manifest = load_manifest(priced_models / "digits" / "onnx-fp32")
    assert manifest == replace(load_manifest(models / "digits" / "onnx-fp32"), hourly_price=0.2)
    shown = shell("variants", "show", "digits", "onnx-fp32", "--models", str(priced_models))
    assert "price         0.2 an hour" in shown.out


@pytest.mark.parametrize("price", ["0", "1e9", "nan"])
def test_what_cannot_be_a_price_is_refused(priced_models: Path, shell: Shell, price: str) -> None:
    ran = shell("variants", "price", "digits", "onnx-fp32", price, "--models", str(priced_models))
    assert ran.code == 2
    assert "an hour must be from 1e-06 to 1e+06" in ran.err


def test_each_variant_is_compared_at_its_own_price(priced_models: Path, shell: Shell) -> None:
    manifests = [
        read_manifest(priced_models / "digits" / name) for name in ("onnx-fp32", "onnx-int8-dynamic")
    ]
    comparison = compare_variants(manifests, 1)
    slow, fast = (
        point
        for name in ("onnx-fp32", "onnx-int8-dynamic")
        for point in comparison.points
        if point.variant == name
    )
    assert costs_of(comparison, None) == {
        "onnx-fp32": pytest.approx(cost_per_1k(slow, 1, 0.2)),
        "onnx-int8-dynamic": pytest.approx(cost_per_1k(fast, 1, 0.05)),
    }
    # The third has no price of its own.
    assert "COST" not in shell("variants", "compare", "--models", str(priced_models)).out
    assert (
        "COST OF 1,000"
        in shell("variants", "compare", "--models", str(priced_models), "--hourly-price", "1").out
    )


def test_an_experiment_takes_its_prices_from_the_manifests_and_keeps_them(
    priced_models: Path, shell: Shell, document_file: Path
) -> None:
    text = yaml.safe_load(document_file.read_text())
    text["spec"] |= {"model": "digits", "baseline": "onnx-fp32", "candidates": ["onnx-int8-dynamic"]}
    text["spec"]["metrics"].append({"name": "cost", "source": "cost_per_1k", "role": "signal"})
    asked = ["apply", "-f", "-", "--models", str(priced_models)]
    assert shell(*asked, typed=json.dumps(text)).code == 0
    kept = shell.store().experiment("tiny").document["spec"]
    assert kept["hourlyPrices"] == {"onnx-fp32": 0.2, "onnx-int8-dynamic": 0.05}
    shell("variants", "price", "digits", "onnx-fp32", "7", "--models", str(priced_models))
    assert shell(*asked, typed=json.dumps(text)).out == "experiment tiny unchanged\n"
    assert shell("diff", "-f", "-", "--exit-code", typed=json.dumps(text)).code == 0


def test_an_experiment_that_asks_for_costs_without_a_price_is_refused(
    priced_models: Path, shell: Shell, document_file: Path
) -> None:
    text = yaml.safe_load(document_file.read_text())
    text["spec"] |= {"model": "digits", "baseline": "onnx-fp32", "candidates": ["onnx-int4-weight-only"]}
    text["spec"]["metrics"].append({"name": "cost", "source": "cost_per_1k", "role": "signal"})
    for force in ([], ["--force"]):
        ran = shell("apply", "-f", "-", *force, "--models", str(priced_models), typed=json.dumps(text))
        assert ran.code == 5
        assert "onnx-int4-weight-only has no price of an hour" in ran.err
        assert "anabranch variants price digits onnx-int4-weight-only NUMBER" in ran.err
