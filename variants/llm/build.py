"""Build variants of a language model under a folder, beside those of other models: `<root>/<model>/<variant>/`.

As other builds: a variant is built once for each digest of (model, data, recipe, tools), and appears whole or not at all.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from anabranch.variants.build import load_cached, only_builder, publish
from anabranch.variants.errors import RecipeError
from anabranch.variants.llm.artifacts import GRAPH, plan_of, window_of, write_graph
from anabranch.variants.llm.byte_pairs import BytePairs
from anabranch.variants.llm.cache_scales import choose_scales
from anabranch.variants.llm.decoder_graph import CacheScales, GraphPlan, decoder_graph
from anabranch.variants.llm.decoder_session import DecoderSession
from anabranch.variants.llm.description import Generation, GenerationSpeed
from anabranch.variants.llm.generation import Stepper, logits_of
from anabranch.variants.llm.generator import Generator, open_decoder
from anabranch.variants.llm.gpu.artifact import gpu_plan, write_decoder
from anabranch.variants.llm.measure import Measured, evaluate, speed
from anabranch.variants.llm.models import LanguageModel, LanguageSource
from anabranch.variants.llm.parallel.shards import write_shards
from anabranch.variants.llm.recipes import (
    LanguageSpec,
    TensorParallel,
    language_recipe_fields,
    language_spec,
    missing_here,
    refusal,
)
from anabranch.variants.llm.requests import OUTPUTS, SIGNATURES
from anabranch.variants.manifest import (
    VERSION,
    BatchLatency,
    Manifest,
    Parity,
    describe_files,
    save_manifest,
    tool_versions,
)
from anabranch.variants.models import Progress
from anabranch.variants.pricing import keep_price
from anabranch.variants.recipes import Device, Fp32, VariantSpec

REFERENCE = "onnx-fp32"
VOCABULARY = "vocabulary.json"
_DRAFT = ".building-"
# The modules that decide an artifact's bytes or what is measured of it: when one of them changes, variants are built again.
_BUILDERS = (
    "artifacts.py",
    "batch_cache.py",
    "blocks.py",
    "build.py",
    "byte_pairs.py",
    "cache_scales.py",
    "decoder.py",
    "decoder_graph.py",
    "decoder_session.py",
    "fidelity.py",
    "generation.py",
    "gguf_file.py",
    "gpu/*.py",
    "kv_cache.py",
    "measure.py",
    "parallel/*.py",
    "perplexity.py",
    "recipes.py",
    "smollm2.py",
    "text_pieces.py",
)


def build_language_model(
    source: LanguageSource,
    variants: Sequence[str | LanguageSpec],
    root: Path,
    *,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[Manifest]:
    """Build what is missing or out of date, and return the manifests of all that was asked for, in that order.

    Args:
        source: The model.
        variants: Default names such as `onnx-kv-sinks`, or recipes.
        root: The folder of all models.
        progress: Called with one line before each part of the work.
        threads: Threads that evaluation may use; every core by default. Speed is measured with one.

    Raises:
        RecipeError: A variant is unknown, or the model cannot take its recipe; variants before it are complete.
        BuildError: An artifact is not what its recipe promises; variants before it are complete.
        FetchError: The model cannot be fetched.
    """
    specs = [language_spec(variant) if isinstance(variant, str) else variant for variant in variants]
    for spec in specs:
        reason = missing_here(spec)
        if reason:
            raise RecipeError(f"{spec.name} cannot be built here: {reason}")
    home = root / source.name
    home.mkdir(parents=True, exist_ok=True)
    with only_builder(home):
        for leftover in home.glob(f"{_DRAFT}*"):
            shutil.rmtree(leftover)
        done = {spec.name: load_cached(home / spec.name, cache_key(source, spec)) for spec in specs}
        missing = [spec for spec in specs if done[spec.name] is None]
        if missing:
            cores = threads or len(os.sched_getaffinity(0))
            workshop = _Workshop(source, home, progress or _silent, cores)
            for spec in missing:
                workshop.require(spec)
            for spec in missing:
                done[spec.name] = workshop.build(spec)
    return [manifest for spec in specs if (manifest := done[spec.name]) is not None]


def cache_key(source: LanguageSource, spec: LanguageSpec) -> str:
    """Digest of everything that determines a variant's bytes."""
    folder = Path(__file__).parent
    modules = [path for pattern in _BUILDERS for path in sorted(folder.glob(pattern))]
    parts = {
        "model": source.name,
        "sources": dict(source.identity),
        "engine": spec.engine,
        "recipe": language_recipe_fields(spec.recipe),
        "device": spec.device,
        "tools": _tools(spec),
        "manifest": VERSION,
        "builders": hashlib.sha256(b"".join(path.read_bytes() for path in modules)).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _tools(spec: LanguageSpec) -> dict[str, str]:
    return tool_versions(VariantSpec(engine=spec.engine, recipe=Fp32(), device=spec.device))


def _silent(_: str) -> None:
    return


class _Workshop:
    """One build run over a prepared model."""

    def __init__(self, source: LanguageSource, home: Path, tell: Progress, cores: int) -> None:
        self._source, self._home, self._tell, self._cores = source, home, tell, cores
        self._model: LanguageModel = source.prepare(tell)
        self._pieces = BytePairs(self._model.vocabulary)
        self._reference: DecoderSession | None = None

    def require(self, spec: LanguageSpec) -> None:
        """Refuse a recipe that the model cannot take.

        Raises:
            RecipeError: With the reason.
        """
        reason = refusal(spec.recipe, self._model.decoder.shape, spec.device)
        if reason:
            raise RecipeError(f"{spec.name} of {self._source.name} cannot be built: {reason}")

    def build(self, spec: LanguageSpec) -> Manifest:
        """Build one variant, measure it, and put it in its place."""
        self._tell(f"build {spec.name}")
        draft = self._home / f"{_DRAFT}{spec.name}-{os.getpid()}"
        draft.mkdir()
        try:
            manifest = keep_price(self._write(spec, draft), self._home / spec.name)
            save_manifest(manifest, draft)
            publish(draft, self._home / spec.name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return manifest

    def _write(self, spec: LanguageSpec, draft: Path) -> Manifest:
        start = time.perf_counter()
        names = self._write_artifact(spec, draft)
        (draft / VOCABULARY).write_bytes(self._model.vocabulary.to_json())
        build_s = time.perf_counter() - start
        files = describe_files(draft, [*names, VOCABULARY])
        session = open_decoder(draft, names[0], threads=1 if len(names) > 2 else self._cores)
        manifest = Manifest(
            version=VERSION,
            model=self._source.name,
            variant=spec.name,
            engine=spec.engine,
            device=spec.device,
            recipe=language_recipe_fields(spec.recipe),
            artifact=names[0],
            files=files,
            signatures=SIGNATURES,
            outputs=OUTPUTS,
            text=None,
            sources=self._source.identity,
            tools=_tools(spec),
            cache_key=cache_key(self._source, spec),
            size_bytes=sum(file.size_bytes for file in files),
            build_s=round(build_s, 3),
            parity=None,
            task=None,
            latency=(),
            generation=self._describe(spec, session),
        )
        if not self._model.evaluation:
            session.close()
            return manifest
        self._tell(f"measure {spec.name}")
        text = self._model.evaluation
        measured = evaluate(
            logits_of(reference := self._reference_session(), reference.new_cache(None, len(text)), text, 1),
            logits_of(session, session.new_cache(window_of(spec.recipe), len(text)), text, 1),
            text,
            name=spec.name,
        )
        session.close()
        del session
        timed = Generator(manifest, open_decoder(draft, names[0], threads=1), self._pieces)
        timing = speed(timed, text, threads=1)
        timed.close()
        return _with_measurements(manifest, measured, timing)

    def _write_artifact(self, spec: LanguageSpec, draft: Path) -> tuple[str, ...]:
        """The names of the files, first the one that the engine opens."""
        if isinstance(spec.recipe, TensorParallel):
            return write_shards(self._model.decoder, spec.recipe.degree, draft)
        if spec.device is Device.CUDA:
            return write_decoder(self._model.decoder, gpu_plan(spec), draft)
        return write_graph(self._model.decoder, plan_of(spec.recipe, self._scales), draft)

    def _describe(self, spec: LanguageSpec, session: Stepper) -> Generation:
        window = window_of(spec.recipe)
        rows = self._model.context if window is None else session.new_cache(window, 1).buffers.shape[3]
        return Generation(
            vocabulary=VOCABULARY,
            vocabulary_size=self._model.decoder.shape.vocabulary,
            context=self._model.context,
            chat=self._model.chat,
            stops=self._model.stops,
            window=window,
            cache_row_bytes=session.geometry.row_bytes,
            cache_bytes=session.geometry.row_bytes * rows,
            shares_steps=session.shares_steps,
        )

    def _scales(self, bits: int) -> CacheScales:
        self._tell("fit the scales of the cache")
        return choose_scales(self._reference_session(), self._model.calibration, bits)

    def _reference_session(self) -> DecoderSession:
        """The decoder in FP32; from the built variant where there is one that is up to date."""
        if self._reference is None:
            spec = language_spec(REFERENCE)
            built = self._home / REFERENCE
            if load_cached(built, cache_key(self._source, spec)) is not None:
                self._reference = DecoderSession(built / GRAPH, threads=self._cores)
            else:
                graph = decoder_graph(self._model.decoder, GraphPlan())
                self._reference = DecoderSession(graph.SerializeToString(), threads=self._cores)
        return self._reference


def _with_measurements(manifest: Manifest, measured: Measured, timed: GenerationSpeed | None) -> Manifest:
    fidelity = measured.fidelity
    assert manifest.generation is not None
    return replace(
        manifest,
        parity=Parity(
            reference=REFERENCE,
            requests=fidelity.tokens,
            max_abs=fidelity.max_abs,
            top1_agreement=fidelity.agreement,
            cosine_tensor="logits",
            cosine_mean=fidelity.cosine_mean,
            cosine_min=fidelity.cosine_min,
        ),
        gate=None if manifest.variant == REFERENCE else measured.gate,
        latency=() if timed is None else (_whole_answer(timed),),
        generation=replace(
            manifest.generation,
            fidelity=fidelity,
            perplexity=measured.perplexity,
            tail=measured.tail,
            speed=() if timed is None else (timed,),
        ),
    )


def _whole_answer(timed: GenerationSpeed) -> BatchLatency:
    """The time of one request, as every variant's manifest has it."""
    return BatchLatency(
        batch_size=1,
        p50_ms=timed.answer_ms,
        p95_ms=timed.answer_p95_ms,
        calls=timed.calls,
        threads=timed.threads,
    )
