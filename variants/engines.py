"""Open an artifact with the engine and on the device that it was built for."""

from pathlib import Path
from typing import assert_never

from anabranch.variants.recipes import Device, Engine, Tf32
from anabranch.variants.sessions import OnnxSession, Session


def open_session(
    engine: Engine,
    artifact: Path,
    *,
    threads: int,
    device: Device = Device.CPU,
    recipe: str = "",
    embedding: bool = False,
    trace: Path | None = None,
) -> Session:
    """Load an artifact.

    Args:
        engine: What runs it.
        artifact: The file that the engine loads.
        threads: Threads that share one call's work on a CPU, at least 1.
        device: Where it runs.
        recipe: The recipe's name: some recipes are a mode of the engine.
        embedding: Whether the torch engines give `embedding` beside the outputs.
        trace: Where ONNX Runtime's trace of every operator begins its file names; None for none.

    Raises:
        VariantError: The engine does not accept the file, or the device is missing.
    """
    uses_tf32 = recipe == Tf32.name
    match engine:
        case Engine.ONNX:
            return OnnxSession(artifact, threads=threads, device=device, uses_tf32=uses_tf32, trace=trace)
        case Engine.TORCH | Engine.TORCH_COMPILE:
            # Torch is an optional extra and takes seconds to import.
            from anabranch.variants.torch_engine.session import TorchSession

            return TorchSession(
                artifact,
                threads=threads,
                device=device,
                is_compiled=engine is Engine.TORCH_COMPILE,
                uses_tf32=uses_tf32,
                embedding=embedding,
            )
        case _:
            assert_never(engine)
