"""A server in operation: reloads under load, hanging workers, TLS, a terminal that closes."""

import fcntl
import os
import pty
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from anabranch.proto import open_inference_pb2 as pb
from anabranch.variants.own_models import import_onnx

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]
Served = Any

TLS = Path(__file__).parents[1] / "contract" / "wire" / "tls"
HELD = [{"setWeight": 50}, {"pause": {}}]


@pytest.fixture
def own_models(models: Path, tmp_path: Path) -> Path:
    """The variants in a folder that a test may change."""
    return Path(shutil.copytree(models, tmp_path / "models"))


def reload(served: Served, wait_until: Wait, said: str = "reloaded: every worker is replaced") -> None:
    """Send SIGHUP, and wait until the log says how it went."""
    before = served.log.read_text().count(said)
    served.process.send_signal(signal.SIGHUP)
    wait_until(lambda: served.log.read_text().count(said) > before, said)


def test_a_reload_under_load_loses_no_request_and_serves_what_is_new(
    serve: Serve, experiment: Make, wait_until: Wait, own_models: Path
) -> None:
    served = serve(models=own_models, workers=2)
    served.apply(experiment("held", ["plain"], HELD))
    first = {worker.pid for worker in served.workers()}
    with served.traffic(clients=8) as traffic:
        wait_until(lambda: len(traffic.answered()) >= 200, "traffic runs")
        import_onnx(own_models / "digits" / "plain" / "plain.onnx", "digits", "late", own_models)
        reload(served, wait_until)
        count = len(traffic.answered())
        wait_until(lambda: len(traffic.answered()) >= count + 200, "traffic goes on")
    second = {worker.pid for worker in served.workers()}
    assert not first & second
    assert len(second) == 2
    assert [reply for reply in traffic.replies if not reply.is_ok] == []
    assert served.client().infer(0, model_version="late").variant == "late"
    assert served.stop() == 0
    routed = [record for _, record in served.records()]
    assert len(routed) == sum(bool(reply.assignment_id) for reply in traffic.replies)


def test_a_reload_that_cannot_go_well_changes_nothing(
    serve: Serve, experiment: Make, wait_until: Wait, own_models: Path
) -> None:
    served = serve(models=own_models)
    client = served.client()
    artifact = own_models / "digits" / "corrupt" / "corrupt.onnx"
    whole = artifact.read_bytes()
    artifact.write_bytes(whole[:-1] + b"?")
    reload(served, wait_until, "a new worker could not begin to serve, the present ones go on")
    artifact.write_bytes(whole)

    served.apply(experiment("held", ["plain"], HELD))
    wait_until(lambda: client.infer(0).assignment_id, "the split is in force")
    shutil.rmtree(own_models / "digits" / "plain")
    reload(served, wait_until, "nothing was reloaded, everything goes on as before: experiment held is")
    assert all(client.infer(number).is_ok for number in range(20))
    assert len(served.workers()) == 1


def test_a_worker_that_hangs_is_replaced(serve: Serve, wait_until: Wait) -> None:
    served = serve(**{"worker-timeout": 2})
    (hanging,) = served.workers()
    hanging.send_signal(signal.SIGSTOP)
    wait_until(lambda: {worker.pid for worker in served.workers()} - {hanging.pid}, "another is started")
    wait_until(lambda: served.client().infer(0, timeout=5).is_ok, "it serves")
    assert "gave no sign of life for 2 s: killing it" in served.log.read_text()


class SecureClient:
    """A client of a TLS port, with a certificate or without."""

    def __init__(self, address: str, *, knows_itself: bool) -> None:
        credentials = grpc.ssl_channel_credentials(
            (TLS / "ca.pem").read_bytes(),
            (TLS / "client.key").read_bytes() if knows_itself else None,
            (TLS / "client.pem").read_bytes() if knows_itself else None,
        )
        self._port = int(address.rpartition(":")[2])
        self.channel = grpc.secure_channel(
            f"127.0.0.1:{self._port}", credentials, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    def shown(self) -> bytes:
        """The certificate that the server shows."""
        context = ssl.create_default_context(cafile=TLS / "ca.pem")
        context.load_cert_chain(TLS / "client.pem", TLS / "client.key")
        with (
            socket.create_connection(("127.0.0.1", self._port), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    def is_live(self) -> bool:
        live: Any = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ServerLive",
            request_serializer=pb.ServerLiveRequest.SerializeToString,
            response_deserializer=pb.ServerLiveResponse.FromString,
        )
        try:
            return bool(live(pb.ServerLiveRequest(), timeout=20).live)
        except grpc.RpcError as error:
            failed: Any = error
            assert failed.code() is grpc.StatusCode.UNAVAILABLE
            return False


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    """The files of TLS, as options of `serve`, where a test may change them."""
    folder = Path(shutil.copytree(TLS, tmp_path / "tls"))
    return {
        "tls-cert": folder / "server.pem",
        "tls-key": folder / "server.key",
        "tls-client-ca": folder / "ca.pem",
    }


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_new_connections_during_a_reload_are_all_served(
    serve: Serve, certificates: dict[str, Path], secured: bool
) -> None:
    served = serve(**(certificates if secured else {}))
    served.process.send_signal(signal.SIGHUP)
    count = failures = 0
    while "reloaded: every worker is replaced" not in served.log.read_text():
        # Each with a connection of its own, so that some are in every moment of the replacement.
        if secured:
            client = SecureClient(served.address, knows_itself=True)
            is_ok = client.is_live()
            client.channel.close()
        else:
            plain = served.client()
            is_ok = plain.infer(count).is_ok
            plain.close()
        count += 1
        failures += not is_ok
    assert failures == 0
    assert count > 20


def test_beyond_loopback_clients_need_a_certificate_and_a_reload_reads_the_files_again(
    serve: Serve, wait_until: Wait, certificates: dict[str, Path]
) -> None:
    served = serve(host="0.0.0.0", **certificates)
    client = SecureClient(served.address, knows_itself=True)
    assert client.is_live()
    assert not SecureClient(served.address, knows_itself=False).is_live()
    before = client.shown()
    shutil.copy(TLS / "client.key", certificates["tls-key"])
    reload(served, wait_until, "nothing was reloaded, everything goes on as before")
    assert client.shown() == before
    shutil.copy(TLS / "client.pem", certificates["tls-cert"])
    reload(served, wait_until)
    assert client.shown() != before
    assert client.is_live()


def test_grpcios_wire_asks_for_certificates_too(serve: Serve, certificates: dict[str, Path]) -> None:
    served = serve(wire="grpcio", **certificates)
    assert SecureClient(served.address, knows_itself=True).is_live()
    assert not SecureClient(served.address, knows_itself=False).is_live()


def test_files_that_make_no_tls_server_are_refused_with_the_files(
    models: Path, tmp_path: Path, certificates: dict[str, Path]
) -> None:
    command = [sys.executable, "-m", "anabranch.cli.main", "serve", "--models", str(models)]
    command += ["--state", str(tmp_path / "state"), "--port", "0", "--baseline", "digits=wide"]
    command += ["--tls-cert", str(certificates["tls-cert"]), "--tls-key", str(TLS / "client.key")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert ran.returncode != 0
    assert "server.pem" in ran.stderr.replace("\n", "")
    assert "make no TLS server" in ran.stderr.replace("\n", " ")


def test_a_server_ends_with_the_terminal_it_was_started_in(models: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "anabranch.cli.main", "serve", "--models", str(models)]
    command += ["--state", str(tmp_path / "state"), "--port", "0", "--baseline", "digits=wide"]
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    assert process.stdout is not None
    assert any(line.startswith("serving on ") for line in process.stdout)
    workers = psutil.Process(process.pid).children()
    os.close(ours)
    assert process.wait(60) == 0
    assert not any(worker.is_running() for worker in workers)
