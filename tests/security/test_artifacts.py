"""Nothing is loaded whose bytes are not those that were built."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anabranch.router.models import load_models
from anabranch.variants.errors import ManifestError, VariantError
from anabranch.variants.manifest import MANIFEST, load_manifest, read_manifest
from anabranch.variants.own_models import import_onnx
from anabranch.variants.runtime import load_variant

OWN_MODEL = Path(__file__).parents[2] / "examples" / "own_model.py"


@pytest.fixture
def folder(load_module: Callable[[Path], ModuleType], tmp_path: Path) -> Path:
    """A built variant of a tiny model."""
    load_module(OWN_MODEL).write(str(tmp_path / "quadrants.onnx"))
    import_onnx(tmp_path / "quadrants.onnx", "quadrants", "onnx-fp32", tmp_path / "models")
    return tmp_path / "models" / "quadrants" / "onnx-fp32"


def test_a_flipped_bit_anywhere_in_any_file_is_refused_before_it_is_loaded(folder: Path) -> None:
    load_variant(folder, threads=1)
    files = [folder / file.path for file in load_manifest(folder).files]
    assert files
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 200)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ManifestError, match="the manifest says"):
                load_manifest(folder)
        with pytest.raises(ManifestError, match="the manifest says"):
            load_variant(folder, threads=1)
        with pytest.raises(ManifestError, match="the manifest says"):
            load_models(folder.parents[1])
        path.write_bytes(whole)


@pytest.mark.parametrize("path", ["../../../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(folder: Path, path: str) -> None:
    said = json.loads((folder / MANIFEST).read_text())
    said["files"][0]["path"] = said["artifact"] = path
    (folder / MANIFEST).write_text(json.dumps(said))
    with pytest.raises(ManifestError, match="leaves its folder"):
        load_manifest(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_of_any_content_is_read_or_refused_in_words(folder: Path, data: st.DataObject) -> None:
    whole = (folder / MANIFEST).read_bytes()
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, min(len(whole), begin + 40)))
    changed = whole[:begin] + data.draw(st.binary(max_size=40)) + whole[end:]
    (folder / MANIFEST).write_bytes(changed)
    try:
        with contextlib.suppress(VariantError):
            assert read_manifest(folder).files is not None
    finally:
        (folder / MANIFEST).write_bytes(whole)
