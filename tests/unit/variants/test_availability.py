import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from anabranch.variants import availability
from anabranch.variants.availability import (
    available_recipes,
    installed_runtimes,
    onnx_cuda_problem,
    recipe_status,
    require_runnable,
    torch_cuda_problem,
    two_runtimes,
)
from anabranch.variants.errors import RecipeError
from anabranch.variants.recipes import RECIPES, Device, Engine, variant_spec


def test_every_combination_is_listed_and_says_why_it_does_not_run_here() -> None:
    statuses = available_recipes()
    assert len(statuses) == len(Engine) * len(RECIPES) * len(Device)
    for status in statuses:
        assert bool(status.reason) != status.runs_here


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("onnx-bf16", "bfloat16"),
        ("onnx-tf32", "device cuda"),
        ("torch-fp8", "device cuda"),
        ("onnx-fp8-cuda", "torch engine"),
        ("torch-int8-static-kl", "onnx engine"),
        ("torch-int8-qat", "onnx engine"),
        ("torch-int8-dynamic-row", "use that name"),
        ("onnx-int8-dynamic-cuda", "no INT8 products"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        require_runnable(variant_spec(name))


@pytest.mark.parametrize(
    "name", ["torch-fp16", "torch-mixed", "onnx-int8-qat", "onnx-int4-weight-only", "torch-int8-weight-only"]
)
def test_a_combination_that_makes_sense_runs_here(name: str) -> None:
    assert recipe_status(variant_spec(name)).reason == ""


def test_a_missing_package_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    for name in ("torch-bf16", "onnx-int8-qat"):
        with pytest.raises(RecipeError, match=r"torch is not installed: pip install 'anabranch\[torch\]'"):
            require_runnable(variant_spec(name))


def test_compiling_without_a_compiler_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(RecipeError, match=r"C\+\+ compiler on a CPU: install g\+\+"):
        require_runnable(variant_spec("torch-compile-fp32"))


def test_without_a_gpu_every_recipe_for_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "cuda_devices", lambda: 0)
    for status in available_recipes():
        if status.spec.device is Device.CUDA:
            assert not status.runs_here


def test_packages_without_cuda_are_refused_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "cuda_devices", lambda: 1)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "the CPU build" in recipe_status(variant_spec("onnx-fp32-cuda")).reason
    assert "does not see the GPU" in recipe_status(variant_spec("torch-compile-fp16-cuda")).reason


def test_fp8_needs_a_gpu_that_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, expected in (((8, 0), "this GPU has 8.0"), ((9, 0), "")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert expected in torch_cuda_problem(fp8=True)
        assert torch_cuda_problem(fp8=False) == ""


def test_two_distributions_of_onnx_runtime_are_found_and_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_runtimes() == ["onnxruntime"]
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.31.1")
    assert installed_runtimes() == ["onnxruntime", "onnxruntime-gpu"]
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in onnx_cuda_problem()
    assert "overwrite each other's files" in two_runtimes(installed_runtimes())


def test_a_driver_without_devices_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SimpleNamespace(cuInit=lambda _flags: 100)
    monkeypatch.setattr("ctypes.CDLL", lambda _name: broken)
    availability.cuda_devices.cache_clear()
    assert availability.cuda_devices() == 0
    availability.cuda_devices.cache_clear()


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
    ],
)
def test_an_installation_for_a_gpu_holds_one_distribution_of_onnx_runtime(
    test_data: Path, system: str, machine: str, wanted: str
) -> None:
    project = tomllib.loads((test_data.parents[1] / "pyproject.toml").read_text())["project"]
    place = {"sys_platform": system, "platform_machine": machine}
    lines = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    required = [Requirement(line) for line in lines]
    found = [
        each.name
        for each in required
        if each.name.startswith("onnxruntime") and (each.marker is None or each.marker.evaluate(place))
    ]
    assert found == [wanted]
    assert project["optional-dependencies"]["cpu"] == ["onnxruntime>=1.31"]


def test_without_onnx_runtime_a_session_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from anabranch.variants.errors import VariantError\n"
        "try:\n    import anabranch.variants.sessions\nexcept VariantError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'anabranch[cpu]'" in done.stdout
