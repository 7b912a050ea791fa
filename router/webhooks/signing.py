"""The signature of a webhook: HMAC-SHA256 over the time and the body, so that an old request cannot be sent again.

`X-Anabranch-Signature: t=1764000000,v1=<hex>` signs `<t>.<body>`. A receiver computes it again with the shared key,
compares in constant time, and refuses what is too old.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

HEADER: Final = "X-Anabranch-Signature"
TOLERANCE_S: Final = 300.0
"""How far the clocks of sender and receiver may differ, with the way between them."""


def signature(key: bytes, body: bytes, at_s: float) -> str:
    """The header's value.

    Args:
        key: The shared secret.
        body: What is sent.
        at_s: Now, in seconds since 1970.
    """
    stamp = str(int(at_s))
    return f"t={stamp},v1={_digest(key, stamp, body)}"


def is_signed(header: str, key: bytes, body: bytes, now: float, *, tolerance_s: float = TOLERANCE_S) -> bool:
    """Whether a request was signed with the key, and not long ago."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    stamp, given = parts.get("t", ""), parts.get("v1", "")
    if not (stamp.isascii() and stamp.isdigit()) or abs(now - int(stamp)) > tolerance_s:
        return False
    return hmac.compare_digest(given.encode(), _digest(key, stamp, body).encode())


def _digest(key: bytes, stamp: str, body: bytes) -> str:
    return hmac.new(key, stamp.encode() + b"." + body, sha256).hexdigest()
