"""Ask a server for its health by gRPC, over TLS where it has it: for container engines and Kubernetes.

Kubernetes' own gRPC probe speaks no TLS. Exit status 0 means SERVING, 1 anything else.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import grpc

CHECK = "/grpc.health.v1.Health/Check"
# HealthCheckResponse{status: SERVING}; the request for the server's own health is the empty message.
SERVING = b"\x08\x01"


def check(address: str, *, authority: bytes | None, name: str | None, timeout_s: float = 4.0) -> bool:
    """Whether a server says that it serves.

    Args:
        address: HOST:PORT.
        authority: PEM of whom to trust for its certificate; None: plain text.
        name: A name in its certificate; None: the address' host.
        timeout_s: Time for all of it.

    Raises:
        grpc.RpcError: It cannot be asked.
    """
    if authority is None:
        channel = grpc.insecure_channel(address)
    else:
        options = [("grpc.ssl_target_name_override", name)] if name else []
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options=options)
    with channel:
        ask: Any = channel.unary_unary(CHECK)
        return bool(ask(b"", timeout=timeout_s) == SERVING)


def main() -> int:
    """Check what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="authority of the server's certificate: TLS")
    parser.add_argument("--name", help="a name in the server's certificate")
    given = parser.parse_args()
    try:
        serving = check(given.address, authority=given.ca.read_bytes() if given.ca else None, name=given.name)
    except OSError as error:
        print(f"{given.ca} cannot be read: {error.strerror}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"{given.address} cannot be asked: {error.details()}", file=sys.stderr)
        return 1
    if not serving:
        print(f"{given.address} does not serve", file=sys.stderr)
    return 0 if serving else 1


if __name__ == "__main__":
    sys.exit(main())
