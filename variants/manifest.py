"""What was built: a variant's bytes, tensors, tools and measurements, and the check that the bytes are still those."""

import importlib.metadata
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pydantic

from anabranch.variants.availability import installed_runtimes
from anabranch.variants.errors import ManifestError
from anabranch.variants.formats import NumberFormat
from anabranch.variants.gate import GateVerdict
from anabranch.variants.llm.description import Generation
from anabranch.variants.packages import file_sha256
from anabranch.variants.recipes import Device, Engine, Int8Qat, VariantSpec
from anabranch.variants.remote_target import RemoteEngine, RemoteTarget
from anabranch.variants.tensors import Signature, TensorSpec
from anabranch.variants.wordpiece import TextEncoding

MANIFEST = "manifest.json"
# Raised when a field changes its meaning; older variants are then built again.
VERSION = 1
# 97.5 % point of the standard normal distribution: intervals hold with probability 0.95.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file of a variant: path relative to its folder, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far a variant's answers are from the reference's on the same requests.

    Args:
        reference: The variant that is compared with.
        requests: How many requests were compared.
        max_abs: Largest difference of any output element.
        top1_agreement: Share of rows with the same class; of a model without scores of classes, with equal outputs.
        cosine_tensor: The tensor whose direction is compared.
        cosine_mean: Mean cosine over the rows.
        cosine_min: Smallest cosine over the rows.
    """

    reference: str
    requests: int
    max_abs: float
    top1_agreement: float
    cosine_tensor: str
    cosine_mean: float
    cosine_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetric:
    """A share of right answers, with its 95 % Wilson interval."""

    name: str
    value: float
    low: float
    high: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLatency:
    """Measured time of one call with real requests, in milliseconds."""

    batch_size: int
    p50_ms: float
    p95_ms: float
    calls: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything known about one built variant.

    Args:
        version: The manifest's own version.
        model: What clients call.
        variant: The variant's name.
        engine: What runs it.
        device: Where it runs, and nowhere else.
        recipe: The recipe's name and settings.
        artifact: The file that the engine loads.
        files: Every file of the variant.
        signatures: What clients may send, the engine's own inputs last.
        outputs: What clients get.
        text: How text is encoded, where a signature takes text.
        sources: Digests and settings that the model came from.
        tools: Versions of what built it.
        cache_key: Digest of all that determines the build.
        size_bytes: Sum over the files.
        build_s: Seconds from the prepared model to the written artifact.
        parity: Against the reference, where there were requests to compare.
        task: Share of right answers, where labels are known.
        latency: One entry a batch size, where there were requests to measure with.
        cold_ms: Milliseconds from opening the artifact to the first answer; the latencies are of a warm engine.
        formats: The number format of every linear layer, as read off the artifact.
        gate: Whether the variant may be a candidate, where there were held-out requests; never of the reference.
        generation: What a variant that generates text needs and is.
        remote: Where a remote variant is served; it has no artifact.
        hourly_price: Of an hour of the hardware that answers one batch at a time, in the user's currency; None where nobody
            said it.
    """

    version: int
    model: str
    variant: str
    engine: Engine | RemoteEngine
    recipe: Mapping[str, Any]
    artifact: str
    files: tuple[ArtifactFile, ...]
    signatures: tuple[Signature, ...]
    outputs: tuple[TensorSpec, ...]
    text: TextEncoding | None
    sources: Mapping[str, str]
    tools: Mapping[str, str]
    cache_key: str
    size_bytes: int
    build_s: float
    parity: Parity | None
    task: TaskMetric | None
    latency: tuple[BatchLatency, ...]
    device: Device = Device.CPU
    cold_ms: float | None = None
    formats: Mapping[str, NumberFormat] = field(default_factory=dict)
    gate: GateVerdict | None = None
    generation: Generation | None = None
    remote: RemoteTarget | None = None
    hourly_price: float | None = None


_CODEC = pydantic.TypeAdapter(Manifest)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """A 95 % interval of a share.

    Args:
        successes: In [0, trials].
        trials: At least 1.

    Source:
        Wilson 1927, Probable inference, the law of succession, and statistical inference, equation on p. 209.
    """
    share = successes / trials
    spread = _Z * math.sqrt(share * (1 - share) / trials + _Z * _Z / (4 * trials * trials))
    middle = share + _Z * _Z / (2 * trials)
    scale = 1 + _Z * _Z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def describe_files(folder: Path, names: Sequence[str]) -> tuple[ArtifactFile, ...]:
    """Digest and size of files in a folder."""
    return tuple(
        ArtifactFile(path=name, sha256=file_sha256(folder / name), size_bytes=(folder / name).stat().st_size)
        for name in names
    )


def tool_versions(spec: VariantSpec) -> dict[str, str]:
    """Versions of the packages that determine a variant's artifact."""
    # The reference that every engine is compared with is computed by ONNX Runtime.
    names = ["numpy", "onnx", *installed_runtimes()]
    if spec.engine is not Engine.ONNX or isinstance(spec.recipe, Int8Qat):
        names.append("torch")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **versions}


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest into the variant's folder."""
    (folder / MANIFEST).write_bytes(_CODEC.dump_json(manifest, indent=2) + b"\n")


def load_manifest(folder: Path) -> Manifest:
    """Read a variant's manifest and verify every file against it.

    Raises:
        ManifestError: It is missing or unreadable, or a file is not the one that was built.
    """
    manifest = read_manifest(folder)
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            raise ManifestError(f"{path} is missing, the manifest lists it: build the variant again")
        digest = file_sha256(path)
        if digest != file.sha256:
            raise ManifestError(
                f"{path} has sha256 {digest}, the manifest says {file.sha256}: build the variant again"
            )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read a variant's manifest without looking at the other files.

    Raises:
        ManifestError: It is missing, unreadable, of another version, or names files outside its folder.
    """
    path = folder / MANIFEST
    try:
        manifest = _CODEC.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{folder} holds no {MANIFEST}: build the variant, or name its folder") from None
    except pydantic.ValidationError as error:
        raise ManifestError(f"{path} is not a manifest of version {VERSION}: {error}") from error
    if manifest.version != VERSION:
        raise ManifestError(
            f"{path} has version {manifest.version}, must be {VERSION}: build the variant again"
        )
    listed = {file.path for file in manifest.files}
    for name in listed:
        inner = PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts:
            raise ManifestError(f"{path} lists {name!r}, which leaves its folder: it cannot be trusted")
    built = set() if manifest.remote is not None else {manifest.artifact}
    needed = built | {part.vocabulary for part in (manifest.text, manifest.generation) if part}
    if not needed <= listed:
        raise ManifestError(
            f"{path} uses {sorted(needed - listed)} without a digest: build the variant again"
        )
    return manifest
