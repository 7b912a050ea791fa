from dataclasses import replace
from pathlib import Path

import pytest

from anabranch.variants.build import build
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import load_manifest
from anabranch.variants.models import ModelSource
from anabranch.variants.pricing import keep_price, set_hourly_price


def test_a_price_stays_when_the_variant_is_built_again(digits_source: ModelSource, tmp_path: Path) -> None:
    [first] = build(digits_source, ["onnx-fp32"], tmp_path, threads=1)
    folder = tmp_path / "digits" / "onnx-fp32"
    set_hourly_price(folder, 0.25)
    changed = replace(digits_source, identity={**digits_source.identity, "again": "yes"})
    [second] = build(changed, ["onnx-fp32"], tmp_path, threads=1)
    assert first.cache_key != second.cache_key
    assert second.hourly_price == load_manifest(folder).hourly_price == 0.25


def test_a_price_of_its_own_comes_first_and_nothing_to_replace_gives_none(
    digits_source: ModelSource, tmp_path: Path
) -> None:
    [manifest] = build(digits_source, ["onnx-fp32"], tmp_path, threads=1)
    folder = tmp_path / "digits" / "onnx-fp32"
    set_hourly_price(folder, 0.25)
    assert keep_price(replace(manifest, hourly_price=2.0), folder).hourly_price == 2.0
    assert keep_price(manifest, tmp_path / "nowhere").hourly_price is None
    with pytest.raises(VariantError, match="price 0 of an hour must be from"):
        set_hourly_price(folder, 0.0)
