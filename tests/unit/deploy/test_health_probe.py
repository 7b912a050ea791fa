"""The health probe of the container files, against a server of gRPC over TLS."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

REPOSITORY = Path(__file__).parents[3]
PROBE = REPOSITORY / "deploy" / "container" / "health.py"
TLS = REPOSITORY / "tests" / "contract" / "wire" / "tls"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, health.HealthServicer]]:
    serving = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, serving)
    pair = ((TLS / "server.key").read_bytes(), (TLS / "server.pem").read_bytes())
    port = serving.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    serving.start()
    yield f"127.0.0.1:{port}", servicer
    serving.stop(None)


def probe(*arguments: object) -> tuple[int, str]:
    asked = subprocess.run(
        [sys.executable, PROBE, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    return asked.returncode, asked.stderr


def test_the_health_of_a_server_is_told_by_the_exit_status(server: tuple[str, health.HealthServicer]) -> None:
    address, servicer = server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert probe(address, "--ca", TLS / "ca.pem", "--name", "localhost") == (0, "")
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert probe(address, "--ca", TLS / "ca.pem") == (1, f"{address} does not serve\n")


@pytest.mark.parametrize(
    "options",
    [(), ("--ca", TLS / "other" / "ca.pem"), ("--ca", TLS / "ca.pem", "--name", "another.example")],
    ids=["plain text", "another authority", "another name"],
)
def test_a_server_that_does_not_prove_who_it_is_is_not_well(
    server: tuple[str, health.HealthServicer], options: tuple[object, ...]
) -> None:
    address, servicer = server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    status, said = probe(address, *options)
    assert status == 1
    assert f"{address} cannot be asked: " in said


def test_an_authority_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    assert probe("127.0.0.1:1", "--ca", missing) == (
        1,
        f"{missing} cannot be read: No such file or directory\n",
    )
