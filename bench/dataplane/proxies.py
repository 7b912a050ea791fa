"""The proxies of the split scenario, all sticky by the header x-unit, 95 % to backend a and 5 % to backend b.

Each runs one worker thread; each backend is the C identity server on the generator's core.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.dataplane.environments import DEBIAN, PINNED, is_installed
from bench.dataplane.envoy_config import WEIGHTS, envoy_config
from bench.dataplane.load_plan import UNIT_HEADER
from bench.dataplane.messages import identity_metadata
from bench.dataplane.peers import Peer, Running, Unavailable
from bench.dataplane.places import BINARIES, SERVERS, environment, peer_python
from bench.dataplane.processes import LOAD_CORE, SERVER_CORE, Tree, free_port


def identity_server(work: Path, name: str, core: int) -> tuple[Tree, int]:
    """Start the C backend.

    Raises:
        Unavailable: If it is not compiled.
    """
    binary = BINARIES / "identity"
    if not binary.is_file():
        raise Unavailable("the C backend is not compiled: `python -m bench.dataplane install`")
    metadata = work / "metadata.bin"
    metadata.write_bytes(identity_metadata())
    port = free_port()
    tree = Tree([binary, str(port), metadata, name], log=work / f"identity-{name}.log", core=core)
    tree.wait_until_listening(port)
    return tree, port


def direct(work: Path) -> Running:
    """The C backend itself, where the proxies run: what no proxy can beat."""
    tree, port = identity_server(work, "direct", SERVER_CORE)
    return Running(tree=tree, port=port, version="libnghttp2, C")


def envoy(work: Path) -> Running:
    """Envoy with weighted clusters and a hash policy."""
    require("envoy")

    def command(port: int, ports: tuple[int, int]) -> list[str | Path]:
        config = work / "envoy.json"
        config.write_text(json.dumps(envoy_config(port, ports)))
        flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        return [environment("envoy") / "bin" / "envoy", "-c", config, *flags]

    return _proxy(work, "envoy", command, PINNED["envoy"].requirements[0].replace("-server==", " "))


def nginx(work: Path) -> Running:
    """Nginx with split_clients and grpc_pass."""
    binary = _debian("nginx")

    def command(port: int, ports: tuple[int, int]) -> list[str | Path]:
        config = work / "nginx.conf"
        config.write_text(_nginx_config(work, port, ports))
        return [binary, "-p", work, "-c", config]

    return _proxy(work, "nginx", command, _version([binary, "-v"]))


def _nginx_config(work: Path, port: int, ports: tuple[int, int]) -> str:
    upstreams = "".join(
        f"upstream {name} {{ server 127.0.0.1:{backend}; keepalive 128; keepalive_requests 1000000000; }}\n"
        for name, backend in zip("ab", ports, strict=True)
    )
    folders = "".join(
        f"{kind}_temp_path {work}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        if kind in ("client_body", "proxy")
    )
    return f"""daemon off;
worker_processes 1;
user root;
pid {work}/nginx.pid;
error_log {work}/nginx-error.log error;
events {{ worker_connections 8192; }}
http {{
access_log off;
{folders}split_clients "$http_x_unit" $backend {{ {WEIGHTS[1]}% b; * a; }}
{upstreams}server {{
listen 127.0.0.1:{port} http2;
http2_max_concurrent_streams 1024;
keepalive_requests 1000000000;
client_max_body_size 0;
client_body_buffer_size 256k;
location / {{ grpc_pass grpc://$backend; grpc_buffer_size 128k; }}
}}
}}
"""


def haproxy(work: Path) -> Running:
    """HAProxy, HTTP/2 on both sides, a consistent hash with weights."""
    binary = _debian("haproxy")

    def command(port: int, ports: tuple[int, int]) -> list[str | Path]:
        config = work / "haproxy.cfg"
        config.write_text(_haproxy_config(port, ports))
        return [binary, "-f", config, "-q", "-db"]

    return _proxy(work, "haproxy", command, _version([binary, "-v"]))


def _haproxy_config(port: int, ports: tuple[int, int]) -> str:
    servers = "".join(
        f"    server {name} 127.0.0.1:{backend} proto h2 weight {weight} maxconn 2000\n"
        for name, backend, weight in zip("ab", ports, WEIGHTS, strict=True)
    )
    return f"""global
    nbthread 1
    maxconn 2000
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend bench
    bind 127.0.0.1:{port} proto h2
    default_backend split
backend split
    balance hdr({UNIT_HEADER})
    hash-type consistent
{servers}"""


def grpcio_proxy(work: Path) -> Running:
    """A proxy written on grpc.aio."""
    require("grpcaio")

    def command(port: int, ports: tuple[int, int]) -> list[str | Path]:
        return [peer_python("grpcaio"), SERVERS / "grpcio_proxy.py", str(port), *map(str, ports)]

    return _proxy(work, "grpcio-proxy", command, ", ".join(PINNED["grpcaio"].requirements))


def _proxy(
    work: Path, name: str, command: Callable[[int, tuple[int, int]], list[str | Path]], version: str
) -> Running:
    a, port_a = identity_server(work, "a", LOAD_CORE)
    b, port_b = identity_server(work, "b", LOAD_CORE)
    port = free_port()
    tree = Tree(command(port, (port_a, port_b)), log=work / f"{name}.log")
    try:
        tree.wait_until_listening(port)
    except BaseException:
        a.stop()
        b.stop()
        raise
    return Running(tree=tree, port=port, version=version, helpers=(a, b))


PROXIES = (
    Peer("direct backend (C)", direct),
    Peer("Envoy", envoy),
    Peer("nginx", nginx),
    Peer("HAProxy", haproxy),
    Peer("grpc.aio proxy", grpcio_proxy),
)


def require(name: str) -> None:
    """Raises Unavailable unless an environment is installed."""
    if not is_installed(name):
        raise Unavailable(f"{', '.join(PINNED[name].requirements)}: `python -m bench.dataplane install`")


def _debian(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise Unavailable(f"{name} is missing: `{DEBIAN}`")
    return found


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()[0].strip()
