"""The models a worker serves: their variants in memory, warmed, and the one that serves in doubt."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anabranch.variants.llm.generator import load_generator
from anabranch.variants.manifest import Manifest, load_manifest, read_manifest
from anabranch.variants.remote import RemoteVariant
from anabranch.variants.runtime import load_variant
from anabranch.variants.tensors import Request, Signature, TensorSpec


class UnknownModel(LookupError):
    """No such model or variant is served; the message says which are."""


class Variant(Protocol):
    """What the request path knows of a variant, wherever it runs."""

    @property
    def manifest(self) -> Manifest:
        """What was built, or checked."""

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """What clients may send; one of them a request."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What clients get."""

    @property
    def keeps_no_state(self) -> bool:
        """Each request stands alone, so that a sequence of requests cannot be honoured."""

    @property
    def reads_contents(self) -> bool:
        """Inputs of the right types and shapes may be refused for what is in them."""

    def check_inputs(self, request: Request) -> int:
        """Refuse a request that the variant cannot take; return its rows.

        Raises:
            VariantInputError: With what was given and what is allowed.
        """

    def check_contents(self, request: Request) -> None:
        """The part of `check_inputs` that depends on more than types and shapes.

        Raises:
            VariantInputError: With what was given and what is allowed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model and its variants by name."""

    name: str
    variants: Mapping[str, Variant]

    def variant(self, name: str) -> Variant:
        """One variant.

        Raises:
            UnknownModel: If the model has no variant of that name.
        """
        found = self.variants.get(name)
        if found is None:
            raise UnknownModel(_unknown(f"model {self.name} has no variant", name, self.variants))
        return found


class Models:
    """All served models."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def model(self, name: str) -> ServedModel:
        """One model.

        Raises:
            UnknownModel: If there is none of that name.
        """
        found = self._models.get(name)
        if found is None:
            raise UnknownModel(_unknown("no model", name, self._models))
        return found

    def locate(self, name: str, version: str) -> tuple[ServedModel, str | None]:
        """What a client means by a model name and version: the model, and the variant if it chose one.

        A variant is chosen by version (`model_version`), or by name (`model/variant`).

        Raises:
            UnknownModel: If there is no such model or variant.
        """
        model_name, _, variant = name.partition("/")
        model = self.model(model_name)
        chosen = variant or version
        if variant and version and variant != version:
            raise UnknownModel(
                f"name {name!r} and version {version!r} choose different variants: send one of them"
            )
        if chosen:
            model.variant(chosen)
        return model, chosen or None


def find_manifests(root: Path) -> dict[str, dict[str, Manifest]]:
    """The manifests under a folder of built variants, by model and variant.

    Raises:
        FileNotFoundError: If nothing was built there.
    """
    found: dict[str, dict[str, Manifest]] = {}
    for path in sorted(root.glob("*/*/manifest.json")):
        manifest = read_manifest(path.parent)
        found.setdefault(path.parent.parent.name, {})[path.parent.name] = manifest
    if not found:
        raise FileNotFoundError(f"no variants in {root}: build some with `anabranch build` first")
    return found


def load_models(root: Path, *, threads: int = 1, generation_threads: int = 1) -> Models:
    """Load and warm every variant under a folder; those elsewhere are not yet connected to.

    Args:
        root: The folder of all models.
        threads: Threads that share one call of a variant.
        generation_threads: The same for variants whose answers share calls.
    """
    models: dict[str, ServedModel] = {}
    for model, manifests in find_manifests(root).items():
        variants: dict[str, Variant] = {}
        for name, manifest in manifests.items():
            folder = root / model / name
            if manifest.remote is not None:
                variants[name] = RemoteVariant(load_manifest(folder), folder)
                continue
            generation = manifest.generation
            load = load_variant if generation is None else load_generator
            shares = generation is not None and generation.shares_steps
            loaded = variants[name] = load(folder, threads=generation_threads if shares else threads)
            loaded.warm()
        models[model] = ServedModel(name=model, variants=variants)
    return Models(models)


def default_baseline(manifests: Mapping[str, Manifest]) -> str:
    """The variant that serves a model nobody has chosen one for: the reference the others were compared with.

    Raises:
        UnknownModel: If the variants do not say, so that a person must.
    """
    references = {manifest.parity.reference for manifest in manifests.values() if manifest.parity}
    known = sorted(references & set(manifests))
    if len(known) == 1:
        return known[0]
    if len(manifests) == 1:
        return next(iter(manifests))
    names = ", ".join(sorted(manifests))
    raise UnknownModel(f"which of {names} serves without an experiment? say so with --baseline MODEL=VARIANT")


def _unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f", did you mean {near[0]}?" if near else "."
    return f"{what} {name!r}{hint} There are: {', '.join(sorted(known)) or 'none'}"
