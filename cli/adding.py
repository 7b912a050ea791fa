"""Take a variant in for the command line: a file of a person's own, or a model on another server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anabranch.cli.building import Samples, read_samples
from anabranch.cli.exit_codes import ExitCode
from anabranch.cli.failures import CommandFailed
from anabranch.variants.added import add_onnx
from anabranch.variants.errors import VariantError
from anabranch.variants.manifest import Manifest
from anabranch.variants.remote_add import add_remote
from anabranch.variants.remote_check import NotServed, RemoteProblem
from anabranch.variants.remote_target import RemoteTarget, RemoteTls


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions:
    """What a person says of a remote variant; see `RemoteTarget`."""

    target: str
    model: str
    version: str
    is_tls: bool
    ca: Path | None
    server_name: str
    certificate: Path | None
    key: Path | None
    connections: int
    max_requests: int


def add_file(
    root: Path, model: str, variant: str, path: Path, samples: Path | None, tell: Callable[[str], None]
) -> Manifest:
    """Check an ONNX file, measure it, and copy it under `root` as a variant."""
    if not path.is_file():
        raise CommandFailed(ExitCode.NOT_FOUND, f"no file {path}", "give an ONNX file")
    given = read_samples(samples) if samples is not None else Samples()
    if not given.measure:
        tell("without --samples, nothing is measured: accuracy, agreement and latency stay empty")
    try:
        return add_onnx(path, model, variant, root, samples=given.measure, labels=given.labels, tell=tell)
    except VariantError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error


def take_in(root: Path, model: str, variant: str, given: RemoteOptions) -> Manifest:
    """Check a model on a server, and describe it under `root`."""
    try:
        remote = RemoteTarget(
            target=given.target,
            model=given.model,
            model_version=given.version,
            tls=_tls(given),
            connections=given.connections,
            max_requests=given.max_requests,
        )
        return asyncio.run(add_remote(root, model, variant, remote, ca=given.ca))
    except NotServed as error:
        raise CommandFailed(
            ExitCode.FAILURE,
            str(error),
            "--target is its gRPC port, --remote-model and --remote-version are the server's own names",
        ) from error
    except RemoteProblem as error:
        raise CommandFailed(ExitCode.FAILURE, str(error)) from error
    except VariantError as error:
        raise CommandFailed(ExitCode.BAD_INPUT, str(error)) from error


def _tls(given: RemoteOptions) -> RemoteTls | None:
    files = {"--tls-certificate": given.certificate, "--tls-key": given.key}
    if len({path is None for path in files.values()}) == 2:
        raise CommandFailed(ExitCode.BAD_INPUT, "--tls-certificate and --tls-key go together: give both")
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise CommandFailed(ExitCode.BAD_INPUT, f"{name} is {path}, which is no file")
    if not (given.is_tls or given.ca or given.server_name or given.certificate):
        return None
    return RemoteTls(
        server_name=given.server_name,
        certificate=str(given.certificate.resolve()) if given.certificate else "",
        key=str(given.key.resolve()) if given.key else "",
    )
