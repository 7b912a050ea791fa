"""What tells our Envoy from anybody else on the machine: a secret that every one of its streams begins with.

The port where Envoy asks and reports is on loopback, which every user of the machine reaches. Routes hold the salt, and
entries of the access log are evidence: neither is for them. The secret is derived from the key of assignment ids, so all
control planes of an installation know it, and gives nothing of that key away. Envoy reads it in its bootstrap, a file of
this user's alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from typing import Final

from anabranch.wire.seam import Handlers, Status, StreamCall, StreamHandler

HEADER: Final = "x-anabranch-envoy"


def passport(key: bytes) -> str:
    """The secret of an installation's Envoys, as text that a header holds.

    Args:
        key: The installation's key of assignment ids.
    """
    return blake2b(key, digest_size=32, person=b"anabranch-envoy").hexdigest()


def initial_metadata(secret: str) -> list[dict[str, str]]:
    """What Envoy's `GrpcService` sends along with every stream."""
    return [{"key": HEADER, "value": secret}]


def write_private(path: Path, text: str) -> None:
    """Write a file that this user alone can read, at no moment another; whole, or not at all."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.rename(path)


def guarded(handlers: Handlers, secret: str, refused: Callable[[str], None]) -> Handlers:
    """The same streams, for those who know the secret only.

    Args:
        handlers: Streams, and no unary calls.
        secret: What they must begin with.
        refused: Called with the method of every stream that did not.
    """
    assert not handlers.unary, "a unary call carries its message with it: guard it where it is read"

    def guard(method: str, handler: StreamHandler) -> StreamHandler:
        def opened(call: StreamCall) -> None:
            if _knows(call, secret):
                handler(call)
                return
            refused(method)
            call.finish(
                Status.UNAUTHENTICATED,
                f"{HEADER} is missing or wrong: start Envoy with the bootstrap that this server writes to its state folder",
            )

        return opened

    return Handlers(stream={method: guard(method, handler) for method, handler in handlers.stream.items()})


def _knows(call: StreamCall, secret: str) -> bool:
    shown = [value for name, value in call.metadata if name == HEADER]
    return (
        len(shown) == 1 and isinstance(shown[0], str) and compare_digest(shown[0].encode(), secret.encode())
    )
