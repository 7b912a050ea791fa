import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from anabranch.router.models import UnknownModel
from anabranch.router.serve import Server
from anabranch.router.settings import Settings
from anabranch.store.sql import open_store
from anabranch.variants.manifest import VERSION, Manifest, describe_files, save_manifest
from anabranch.variants.recipes import Engine


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two variants of `m`, of which nobody has said which one is the baseline."""
    root = tmp_path / "models"
    for variant in ("fp32", "int8"):
        folder = root / "m" / variant
        folder.mkdir(parents=True)
        (folder / "m.onnx").write_bytes(b"x")
        manifest = Manifest(
            version=VERSION,
            model="m",
            variant=variant,
            engine=Engine.ONNX,
            recipe={},
            artifact="m.onnx",
            files=describe_files(folder, ["m.onnx"]),
            signatures=(),
            outputs=(),
            text=None,
            sources={},
            tools={},
            cache_key="",
            size_bytes=1,
            build_s=0.0,
            parity=None,
            task=None,
            latency=(),
        )
        save_manifest(manifest, folder)
    return root


@pytest.fixture
def prepare(models: Path, tmp_path: Path) -> Callable[..., None]:
    """Make a server ready, without running it."""

    def make(port: int = 0, **baselines: str) -> None:
        async def begin() -> None:
            settings = Settings(models=models, state=tmp_path / "state", baselines=baselines, port=port)
            server = Server(settings, on_ready=lambda _: None)
            if port:
                await server.run()

        asyncio.run(begin())

    return make


def test_a_baseline_must_be_said_where_the_variants_do_not(prepare: Callable[..., None]) -> None:
    with pytest.raises(UnknownModel, match="which of fp32, int8 serves without an experiment"):
        prepare()
    prepare(m="fp32")


def test_a_baseline_of_an_unknown_model_is_refused_with_those_there_are(
    prepare: Callable[..., None],
) -> None:
    with pytest.raises(LookupError, match="baseline given for 'n'; served models are m"):
        prepare(m="fp32", n="fp32")


def test_an_unknown_variant_cannot_be_a_baseline(prepare: Callable[..., None]) -> None:
    with pytest.raises(LookupError, match="m has no variant 'fp16' to be its baseline; there are fp32, int8"):
        prepare(m="fp16")


def test_a_promoted_variant_that_is_gone_is_not_replaced_in_silence(
    prepare: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    store = open_store(f"sqlite:///{tmp_path / 'state' / 'anabranch.db'}")
    store.set_baseline("m", "fp8", 1.0)
    store.close()
    with pytest.raises(LookupError, match="fp8 was promoted to the baseline of m, but is not in"):
        prepare(m="fp32")


def test_a_port_that_another_server_listens_on_is_refused_before_anything_starts(
    prepare: Callable[..., None],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="Address already in use"):
            prepare(port=taken.getsockname()[1], m="fp32")
