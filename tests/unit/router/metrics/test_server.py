"""What the supervisor tells at the moment of a scrape."""

import shutil
from pathlib import Path

from prometheus_client import generate_latest

from anabranch.router.metrics.server import ServerMetrics

TLS = Path(__file__).parents[3] / "contract" / "wire" / "tls"
NAME = "anabranch_tls_certificate_end_timestamp_seconds"


def _told(metrics: ServerMetrics) -> list[str]:
    return [
        line for line in generate_latest(metrics.registry()).decode().splitlines() if line.startswith(NAME)
    ]


def test_the_end_of_the_certificate_follows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    shutil.copy(TLS / "ended.pem", path)
    metrics = ServerMetrics(None, certificate=path)
    assert _told(metrics) == [f"{NAME} 1.5779232e+09"]
    shutil.copy(TLS / "server.pem", path)
    assert _told(metrics)[0] > f"{NAME} 4.9"
    path.unlink()
    assert _told(metrics) == []


def test_without_tls_no_certificate_is_told_of() -> None:
    assert _told(ServerMetrics(None)) == []
