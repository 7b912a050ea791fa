"""What a drill runs on: a folder, an experiment, and variants that exist on paper only."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from anabranch.bandit.snapshot import Snapshot
from anabranch.store import codec
from anabranch.variants.manifest import VERSION, Manifest
from anabranch.variants.recipes import Engine
from anabranch.variants.tensors import Datatype, Signature, TensorSpec

MODEL, NAME = "m", "drill"
BASELINE, SOUND, HARMFUL = "base", "sound", "harmful"
ARMS = (BASELINE, SOUND, HARMFUL)
KEY = bytes(range(32))
LEASE_S: Final = 0.4
"""How long a controller of several leads after its last round."""


def document(*, sticky: bool) -> dict[str, Any]:
    """An experiment that passes every kind of step, removes one candidate and promotes the other."""
    spec: dict[str, Any] = {
        "model": MODEL,
        "baseline": BASELINE,
        "candidates": [SOUND, HARMFUL],
        "metrics": [
            {
                "name": "latency",
                "source": "latency_ms",
                "role": "objective",
                "statistic": "p50",
                "direction": "min",
            },
            {"name": "fidelity", "source": "mirror.top1_agreement", "role": "guardrail", "min": 0.5},
            {
                "name": "accuracy",
                "source": "feedback.correct",
                "role": "guardrail",
                "nonInferiorityMargin": 0.2,
            },
            {"name": "stars", "source": "feedback.stars", "role": "signal", "range": [1, 5]},
            {"name": "errors", "source": "error", "role": "guardrail", "max": 0.2},
        ],
        "steps": [
            {"mirror": {"percent": 50, "until": {"fidelity": "decided"}, "maxDuration": "1m"}},
            {"setWeight": 20},
            {"pause": {"duration": "5m"}},
            {"bandit": {"updatePeriod": "10s", "maxDuration": "1h", "maxWeight": 60}},
            {"promote": {"steps": [75, 100], "interval": "1m", "bake": "1m"}},
        ],
    }
    if sticky:
        spec["unit"] = {"metadata": "x-unit"}
    return {"apiVersion": "anabranch/v1", "kind": "Experiment", "metadata": {"name": NAME}, "spec": spec}


def manifests() -> dict[str, dict[str, Manifest]]:
    """The variants as the controller knows them."""
    return {MODEL: {variant: _manifest(variant) for variant in ARMS}}


def _manifest(variant: str) -> Manifest:
    tensor = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))
    return Manifest(
        version=VERSION,
        model=MODEL,
        variant=variant,
        engine=Engine.ONNX,
        recipe={},
        artifact="m.onnx",
        files=(),
        signatures=(Signature(name="inputs", inputs=(tensor,)),),
        outputs=(TensorSpec(name="logits", datatype=Datatype.FP32, shape=(-1, 3)),),
        text=None,
        sources={},
        tools={},
        cache_key="",
        size_bytes=0,
        build_s=0.0,
        parity=None,
        task=None,
        latency=(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What outlives every process of a drill, as one of its servers sees it.

    Attributes:
        folder: Of all servers.
        store_url: Of the database that several servers share; empty where one server has a SQLite file of its own.
        place: The number of the server.
    """

    folder: Path
    store_url: str = ""
    place: int = 0

    def at(self, place: int) -> Self:
        """The same, as another server sees it."""
        return replace(self, place=place)

    @property
    def journal(self) -> Path:
        """Of this server's workers."""
        return self.folder / f"journal-{self.place}"

    @property
    def journals(self) -> list[Path]:
        """Of all servers."""
        return sorted(self.folder.glob("journal-*"))

    @property
    def database(self) -> Path:
        return self.folder / "anabranch.db"

    @property
    def url(self) -> str:
        return self.store_url or f"sqlite:///{self.database}"

    @property
    def is_shared(self) -> bool:
        """Whether several servers share the database."""
        return bool(self.store_url)

    @property
    def snapshot(self) -> Path:
        """What this server's controller has given to its workers."""
        return self.folder / f"snapshot-{self.place}.json"

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Give the writers their routes, whole."""
        self._replace(self.snapshot, codec.snapshot_text(snapshot))

    def set_clock(self, ahead_s: float) -> None:
        """Let the controllers' clock be ahead of, or behind, the machine's."""
        self._replace(self.clock, repr(ahead_s))

    def _replace(self, path: Path, text: str) -> None:
        # Two controllers may be at it at once.
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text)
        fresh.replace(path)
