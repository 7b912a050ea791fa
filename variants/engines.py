"""Open an artifact with the engine that it was built for."""

from pathlib import Path
from typing import assert_never

from anabranch.variants.recipes import Engine
from anabranch.variants.sessions import OnnxSession, Session


def open_session(engine: Engine, artifact: Path, *, threads: int) -> Session:
    """Load an artifact.

    Args:
        engine: What runs it.
        artifact: The file that the engine loads.
        threads: Threads that share one call's work, at least 1.

    Raises:
        VariantError: The engine does not accept the file.
    """
    match engine:
        case Engine.ONNX:
            return OnnxSession(artifact, threads=threads)
        case Engine.TORCH:
            # Torch is an optional extra and takes seconds to import.
            from anabranch.variants.torch_encoder import TorchSession

            return TorchSession(artifact, threads=threads)
        case _:
            assert_never(engine)
