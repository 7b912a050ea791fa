"""The metrics port over real sockets on loopback."""

import contextlib
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from anabranch.router.metrics import port as module
from anabranch.router.metrics.catalogue import REQUESTS, WORKERS
from anabranch.router.metrics.collector import new_registry
from anabranch.router.metrics.port import MOST_CLIENTS, MetricsPort, open_metrics_port
from anabranch.router.metrics.samples import Buckets, Sample
from anabranch.router.settings import InvalidSettings, Settings

SAMPLES = (
    Sample(WORKERS.copies_dropped, ('queue "full"\n',), 3.0),
    Sample(REQUESTS.duration, ("m", "v"), Buckets([1] * len(REQUESTS.duration.borders) + [2], total=1.5)),
)


@pytest.fixture
def port() -> Iterator[MetricsPort]:
    opened = MetricsPort("127.0.0.1", 0, new_registry([lambda: SAMPLES]))
    yield opened
    opened.close()


def ask(
    port: MetricsPort, method: str = "GET", path: str = "/metrics", **headers: str
) -> tuple[int, str, str]:
    connection = HTTPConnection("127.0.0.1", port.port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type") or "", response.read().decode()
    finally:
        connection.close()


def test_a_scrape_reads_what_there_is(port: MetricsPort) -> None:
    status, kind, text = ask(port)
    assert status == 200
    assert kind.startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (dropped,) = families["anabranch_mirror_dropped_copies"].samples
    assert dropped.value == 3
    assert dropped.labels == {"reason": 'queue "full"\n'}, "a label cannot break the format"
    by_border = {
        sample.labels["le"]: sample.value
        for sample in families["anabranch_request_duration_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert by_border["0.0001"] == 1
    assert by_border["+Inf"] == len(REQUESTS.duration.borders) + 2
    assert "process_cpu_seconds" in families


def test_prometheus_gets_openmetrics_when_it_asks_for_it(port: MetricsPort) -> None:
    _, kind, text = ask(port, Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/metrics", 405), ("GET", "/", 404)])
def test_there_is_nothing_else_to_read_and_nothing_to_change(
    port: MetricsPort, method: str, path: str, status: int
) -> None:
    assert ask(port, method, path)[0] == status


def test_more_clients_than_may_are_hung_up_on_and_the_others_are_served(port: MetricsPort) -> None:
    with contextlib.ExitStack() as opened:
        silent = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port.port), timeout=30))
            for _ in range(MOST_CLIENTS)
        ]
        one_more = opened.enter_context(socket.create_connection(("127.0.0.1", port.port), timeout=30))
        assert one_more.recv(1) == b"", "it is not kept waiting"
        silent[0].sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert silent[0].recv(12) == b"HTTP/1.0 200"


def test_a_client_that_dawdles_is_let_go(port: MetricsPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.0)
    with socket.create_connection(("127.0.0.1", port.port), timeout=30) as client:
        client.sendall(b"GET /met")
        assert client.recv(1) == b""


def test_a_taken_port_is_told_with_what_to_do(port: MetricsPort, tmp_path: Path) -> None:
    registry = new_registry([])
    settings = Settings(models=tmp_path, metrics_port=port.port)
    with pytest.raises(
        InvalidSettings,
        match=rf"served on 127.0.0.1:{port.port}: Address already in use; choose another --metrics-port",
    ):
        open_metrics_port(settings.metrics_host, settings.metrics_port, registry)
    assert open_metrics_port("127.0.0.1", None, registry) is None
