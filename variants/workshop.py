"""One build run over a prepared model: write each variant's artifact, compare it with the reference, judge and time it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import assert_never

import onnx

from anabranch.variants.engines import open_session
from anabranch.variants.evaluation import Evaluation, evaluate
from anabranch.variants.formats import NumberFormat, promised_formats
from anabranch.variants.graph_formats import require_formats
from anabranch.variants.manifest import VERSION, Manifest, describe_files, tool_versions
from anabranch.variants.measure import latencies, run_all, run_batch
from anabranch.variants.models import ModelSource, PreparedModel, Progress
from anabranch.variants.onnx_graphs import with_extra_outputs
from anabranch.variants.onnx_recipes import OnnxBuilder
from anabranch.variants.recipes import (
    Device,
    Engine,
    Int4WeightOnly,
    Int8Dynamic,
    Int8Static,
    Int8WeightOnly,
    MixedWithin,
    Tf32,
    VariantSpec,
    recipe_fields,
    variant_spec,
)
from anabranch.variants.safetensors_file import load_tensors, save_tensors
from anabranch.variants.sensitivity.report import measure_layers, save_report
from anabranch.variants.sessions import OnnxSession, Session
from anabranch.variants.tensors import Array

REFERENCE = "onnx-fp32"
_ONNX_FILE = "model.onnx"
_TORCH_FILE = "model.safetensors"
# Recipes whose graphs keep the reference's weights, only reduced: one layer can be switched back.
_SWITCHABLE = (Int8Dynamic, Int8Static, Int8WeightOnly, Int4WeightOnly, MixedWithin)


def has_layer_errors(spec: VariantSpec) -> bool:
    """Whether the error of every layer can be measured for a variant."""
    return spec.engine is Engine.ONNX and spec.device is Device.CPU and isinstance(spec.recipe, _SWITCHABLE)


class Workshop:
    """Builds variants of one model.

    Args:
        source: The model.
        work: A folder for results that later runs can use again.
        key_of: The digest of everything that determines a variant's bytes.
        tell: Takes a line before each part of the work.
        cores: Threads that evaluation may use.
    """

    def __init__(
        self,
        source: ModelSource,
        work: Path,
        key_of: Callable[[VariantSpec], str],
        tell: Progress,
        cores: int,
    ) -> None:
        self._source, self._work, self._key_of, self._tell, self._cores = source, work, key_of, tell, cores
        work.mkdir(exist_ok=True)
        self._model: PreparedModel = source.prepare(work, tell)
        self._onnx = OnnxBuilder(self._model, tell, threads=cores)
        self._reference: Mapping[str, Array] | None = None

    def report_layers(self, spec: VariantSpec, folder: Path) -> None:
        """Measure the error of every layer of a built variant, and keep it beside its manifest."""
        self._tell(f"measure the layers of {spec.name}")
        report = measure_layers(self._model, onnx.load(str(folder / _ONNX_FILE)), threads=self._cores)
        if report is not None:
            save_report(report, folder)

    def build(self, spec: VariantSpec, draft: Path) -> Manifest:
        """Write a variant's files into a folder, and describe and measure them.

        Raises:
            RecipeError: The model cannot take the recipe.
            BuildError: The artifact is not what the recipe promises.
        """
        self._tell(f"build {spec.name}")
        start = time.perf_counter()
        graph: onnx.ModelProto | None = None
        match spec.engine:
            case Engine.ONNX:
                name = _ONNX_FILE
                graph = self._onnx.build(spec.recipe)
                onnx.save(graph, str(draft / name))
            case Engine.TORCH | Engine.TORCH_COMPILE:
                from anabranch.variants.torch_engine.artifact import write_encoder

                name = _TORCH_FILE
                write_encoder(self._model, spec, draft / name)
            case _:
                assert_never(spec.engine)
        for asset, data in self._model.assets.items():
            (draft / asset).write_bytes(data)
        build_s = time.perf_counter() - start
        files = describe_files(draft, [name, *sorted(self._model.assets)])
        self._tell(f"measure {spec.name}")
        formats = self._formats(spec, graph, draft / name)
        found = self._evaluate(spec, graph, draft / name)
        requests = self._model.evaluation
        opened = time.perf_counter()
        session = open_session(
            spec.engine, draft / name, threads=1, device=spec.device, recipe=spec.recipe.name
        )
        if requests:
            run_batch(session, requests[:1])
        cold_ms = (time.perf_counter() - opened) * 1e3
        return Manifest(
            version=VERSION,
            model=self._source.name,
            variant=spec.name,
            engine=spec.engine,
            device=spec.device,
            recipe=recipe_fields(spec.recipe),
            artifact=name,
            files=files,
            signatures=self._model.signatures,
            outputs=self._model.outputs,
            text=self._model.text,
            sources=self._source.identity,
            tools=tool_versions(spec),
            cache_key=self._key_of(spec),
            size_bytes=sum(file.size_bytes for file in files),
            build_s=round(build_s, 3),
            parity=found.parity,
            task=found.task,
            formats=formats,
            gate=found.gate,
            latency=latencies(session, requests, threads=1) if requests else (),
            cold_ms=round(cold_ms, 3) if requests else None,
        )

    def _evaluate(self, spec: VariantSpec, graph: onnx.ModelProto | None, artifact: Path) -> Evaluation:
        if not self._model.evaluation:
            return Evaluation()
        session: Session
        if graph is not None:
            session = OnnxSession(
                with_extra_outputs(graph, self._probes()),
                threads=self._cores,
                device=spec.device,
                uses_tf32=isinstance(spec.recipe, Tf32),
            )
        else:
            # One thread: torch's threads wait for each other by spinning, which a shared machine punishes tenfold.
            session = open_session(
                spec.engine,
                artifact,
                threads=1,
                device=spec.device,
                recipe=spec.recipe.name,
                embedding=True,
            )
        reference = self._reference_outputs()
        outputs = reference if spec.name == REFERENCE else run_all(session, self._model.evaluation)
        return evaluate(
            spec.name,
            outputs,
            reference,
            REFERENCE,
            names=[output.name for output in self._model.outputs],
            labels=self._model.labels,
            probe=self._model.probe,
            tell=self._tell,
        )

    def _formats(
        self, spec: VariantSpec, graph: onnx.ModelProto | None, artifact: Path
    ) -> Mapping[str, NumberFormat]:
        """The layers' formats as the artifact has them.

        Raises:
            BuildError: They are not what the recipe promises.
        """
        if graph is not None:
            found = self._onnx.formats(graph)
        else:
            from anabranch.variants.torch_engine.artifact import read_formats

            found = read_formats(artifact)
        model = self._model
        if model.encoder is not None and not isinstance(spec.recipe, MixedWithin):
            require_formats(
                found, promised_formats(spec, attention=model.attention, feedforward=model.feedforward)
            )
        return found

    def _probes(self) -> tuple[str, ...]:
        return (self._model.probe,) if self._model.probe else ()

    def _reference_outputs(self) -> Mapping[str, Array]:
        """The FP32 graph's answers to the evaluation requests; kept for builds of further variants."""
        if self._reference is not None:
            return self._reference
        key = self._key_of(variant_spec(REFERENCE))
        saved = self._work / f"reference-{key[:16]}.safetensors"
        if not saved.is_file():
            self._tell(f"run the reference on {len(self._model.evaluation)} held-out requests")
            session = OnnxSession(with_extra_outputs(self._model.graph, self._probes()), threads=self._cores)
            draft = saved.with_suffix(".tmp")
            save_tensors(draft, run_all(session, self._model.evaluation))
            draft.replace(saved)
        self._reference = load_tensors(saved)
        return self._reference
