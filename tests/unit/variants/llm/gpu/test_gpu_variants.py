"""Language models on a GPU, against the FP32 graph on the CPU: `pytest -m gpu` on a machine with one."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.decode_batch import Member
from anabranch.variants.llm.decoder import random_decoder
from anabranch.variants.llm.generator import Generator, load_generator
from anabranch.variants.llm.models import LanguageSource
from anabranch.variants.llm.recipes import LANGUAGE_SPECS, LanguageSpec
from anabranch.variants.llm.sampling import Sampling
from anabranch.variants.recipes import Device

pytestmark = pytest.mark.gpu
_SPECS = [spec for spec in LANGUAGE_SPECS if spec.device is Device.CUDA]
# Share of tokens on which a random decoder agrees with its FP32, at least.
_AGREES = {
    "fp32": 0.99,
    "fp16": 0.97,
    "int8-weight-only": 0.9,
    "kv-int8": 0.9,
    "kv-window": 0.97,
    "kv-sinks": 0.97,
}
_COARSE = 0.4


@pytest.fixture(scope="module")
def source(tiny: ModuleType, tiny_source: LanguageSource) -> LanguageSource:
    """The tiny model with heads of 32 numbers."""
    model = tiny_source.prepare(lambda _line: None)
    wide = random_decoder(replace(model.decoder.shape, head_size=32), seed=2)
    changed = replace(model, decoder=wide)
    return LanguageSource(name="wide", identity={"weights": "random"}, prepare=lambda _tell: changed)


@pytest.mark.parametrize("spec", _SPECS, ids=lambda spec: spec.name)
def test_a_variant_on_the_gpu_agrees_with_the_reference_and_shares_its_steps(
    source: LanguageSource, tmp_path: Path, spec: LanguageSpec
) -> None:
    [manifest] = build_language_model(source, [spec], tmp_path)
    assert manifest.device is Device.CUDA
    assert manifest.parity is not None
    assert manifest.generation is not None
    assert manifest.parity.top1_agreement >= _AGREES.get(spec.recipe.name, _COARSE)
    assert manifest.generation.speed
    generator = load_generator(tmp_path / "wide" / spec.name)
    generator.warm()
    if spec.recipe.name == "fp32":
        _shares_steps(generator)


def _shares_steps(generator: Generator) -> None:
    """Eight answers at once say what they say alone; prompts and answers are long enough for several graphs."""
    rng = np.random.default_rng(11)
    prompts = [
        [int(token) for token in rng.integers(1, 320, size)] for size in (3, 70, 9, 250, 40, 5, 200, 64)
    ]
    lengths = (20, 7, 31, 60, 1, 25, 100, 16)

    def answering(number: int) -> Member:
        asked = Sampling(max_tokens=lengths[number])
        return Member(generator.answering_tokens(prompts[number], asked, stops=frozenset()), lambda: False)

    batch = generator.new_batch(4, lambda: 0.0)
    assert batch is not None
    members = [answering(number) for number in range(len(prompts))]
    said: dict[Member, list[int | None]] = {member: [] for member in members}
    waiting = list(members)
    while waiting or batch.size:
        while waiting and batch.size < batch.slots:
            batch.join(waiting.pop(0))
        for step in batch.advance():
            assert step.token is not None, step.error
            said[step.member].append(step.token.id)
    for number, member in enumerate(members):
        alone = [token.id for token in generator.events(answering(number).answering)]
        assert said[member] == alone
