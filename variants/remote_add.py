"""Take a model on another server in as a variant: ask what it serves, compare, and write the manifest."""

import contextlib
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from anabranch.variants.build import publish
from anabranch.variants.errors import ManifestError, VariantError
from anabranch.variants.manifest import (
    MANIFEST,
    VERSION,
    Manifest,
    describe_files,
    read_manifest,
    save_manifest,
)
from anabranch.variants.own_models import check_name
from anabranch.variants.pricing import keep_price
from anabranch.variants.remote import open_channel
from anabranch.variants.remote_check import (
    NotServed,
    RemoteProblem,
    Served,
    differences,
    find_served,
    why_not_ready,
)
from anabranch.variants.remote_target import RemoteEngine, RemoteTarget
from anabranch.variants.tensors import Signature, TensorSpec

_CA = "ca.pem"


async def add_remote(
    root: Path,
    model: str,
    variant: str,
    remote: RemoteTarget,
    *,
    ca: Path | None = None,
    timeout_s: float = 10.0,
) -> Manifest:
    """Check a model on a server, and describe it under `root`.

    Where the model has variants already, the server's tensors must be theirs.

    Args:
        root: The folder of all models.
        model: What clients call the model.
        variant: The variant's name; an older remote variant of that name is replaced.
        remote: Where it is; what was checked is added.
        ca: Authorities that the server's certificate must come from, as PEM; copied into the variant's folder.
        timeout_s: For each question to the server.

    Raises:
        NotServed: The server does not answer, or is not ready.
        RemoteProblem: It serves other tensors.
        VariantError: A name cannot be a folder's, a file is missing, or a built variant has the name.
    """
    for name in (model, variant):
        check_name(name)
    home = root / model
    _refuse_built(home / variant)
    home.mkdir(parents=True, exist_ok=True)
    draft = home / f".adding-{variant}-{os.getpid()}"
    draft.mkdir()
    try:
        if ca is not None:
            if remote.tls is None:
                raise VariantError(f"authorities are given, {ca}, but TLS is not asked for")
            if not ca.is_file():
                raise VariantError(f"{ca}, the authorities of the server's certificate, is no file")
            shutil.copyfile(ca, draft / _CA)
            remote = replace(remote, tls=replace(remote.tls, ca=_CA))
        served = await _ask(remote, draft, timeout_s)
        signatures = _signatures(home, variant, served)
        files = describe_files(draft, [_CA] if ca is not None else [])
        manifest = Manifest(
            version=VERSION,
            model=model,
            variant=variant,
            engine=RemoteEngine.REMOTE,
            recipe={"name": "remote"},
            artifact="",
            files=files,
            signatures=signatures,
            outputs=served.outputs,
            text=None,
            sources={"target": remote.target, "model": remote.model},
            tools={},
            cache_key="",
            size_bytes=0,
            build_s=0.0,
            parity=None,
            task=None,
            latency=(),
            remote=replace(
                remote,
                is_decoupled=served.is_decoupled,
                server=served.server,
                checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )
        manifest = keep_price(manifest, home / variant)
        save_manifest(manifest, draft)
        publish(draft, home / variant)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        # Nothing is left of a model that was not taken in.
        with contextlib.suppress(OSError):
            home.rmdir()
    return manifest


async def _ask(remote: RemoteTarget, folder: Path, timeout_s: float) -> Served:
    try:
        channel = open_channel(replace(remote, connections=1), folder)
    except OSError as error:
        raise VariantError(f"the files of TLS cannot be used: {error}") from error
    try:
        problem = await why_not_ready(channel, remote.model, remote.model_version, timeout_s)
        if problem is not None:
            named = f"version {remote.model_version!r} of " if remote.model_version else ""
            raise NotServed(f"{remote.target} does not serve {named}{remote.model!r}: {problem}")
        return await find_served(channel, remote.model, remote.model_version, timeout_s)
    finally:
        await channel.close()


def _signatures(home: Path, variant: str, served: Served) -> tuple[Signature, ...]:
    """The signatures of the model's other variants, where there are any; else one of the server's inputs."""
    for path in sorted(home.glob(f"*/{MANIFEST}")):
        if path.parent.name == variant:
            continue
        known = read_manifest(path.parent)
        inputs: dict[str, TensorSpec] = {
            spec.name: spec for signature in known.signatures for spec in signature.inputs
        }
        problems = differences("input", served.inputs, list(inputs.values()))
        problems += differences("output", served.outputs, known.outputs)
        if problems:
            raise RemoteProblem(
                f"the server's model is not that of {known.model}/{known.variant}: {'; '.join(problems)}"
            )
        return known.signatures
    return (Signature(name="inputs", inputs=served.inputs),)


def _refuse_built(folder: Path) -> None:
    try:
        existing = read_manifest(folder)
    except ManifestError:
        return
    if existing.remote is None:
        raise VariantError(f"{folder} holds a variant that was built here: choose another name, or remove it")
