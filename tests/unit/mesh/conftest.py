"""Remote variants of one model, and a route of it."""

from collections.abc import Mapping

import pytest

from anabranch.bandit.assignment import lay_out
from anabranch.bandit.snapshot import Route, Snapshot
from anabranch.variants.manifest import VERSION, Manifest
from anabranch.variants.remote_target import OutlierDetection, RemoteEngine, RemoteTarget

Manifests = Mapping[str, Mapping[str, Manifest]]


def _remote(variant: str) -> Manifest:
    outliers = OutlierDetection(consecutive_errors=3, base_ejection_time_s=10.0)
    return Manifest(
        version=VERSION,
        model="m",
        variant=variant,
        engine=RemoteEngine.REMOTE,
        recipe={"name": "remote"},
        artifact="",
        files=(),
        signatures=(),
        outputs=(),
        text=None,
        sources={},
        tools={},
        cache_key="",
        size_bytes=0,
        build_s=0.0,
        parity=None,
        task=None,
        latency=(),
        remote=RemoteTarget(
            target=f"{variant}.test:9", model="far", model_version=variant, outliers=outliers
        ),
    )


@pytest.fixture
def manifests() -> Manifests:
    return {"m": {"a": _remote("a"), "b": _remote("b")}}


@pytest.fixture
def snapshot() -> Snapshot:
    route = Route(
        model="m",
        arms=("a", "b"),
        layout=lay_out([0.25]),
        experiment="e",
        experiment_id=7,
        epoch=3,
        salt="5a17",
        unit_metadata="x-user-id",
    )
    return Snapshot(version=1, published_s=0.0, routes={"m": route})
