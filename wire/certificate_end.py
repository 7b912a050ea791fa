"""Until when a certificate is valid. The standard library tells it of a peer's certificate only, not of one's own."""

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_TIMES: Final = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""ASN.1's UTCTime and GeneralizedTime, as RFC 5280 has them written."""


def certificate_end(path: Path) -> datetime:
    """When the first certificate of a PEM file ends.

    Raises:
        OSError: The file cannot be read.
        ValueError: There is no certificate in it.
    """
    found = _PEM.search(path.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise ValueError(f"{path} holds no certificate in PEM")
    try:
        return _end(ssl.PEM_cert_to_DER_cert(found[0]))
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError(f"the certificate in {path} cannot be read: {error!r}") from error


def _end(der: bytes) -> datetime:
    """Certificate → TBSCertificate: [version], serial, algorithm, issuer, validity → notBefore, notAfter."""
    _, certificate, _ = _element(der)
    _, rest, _ = _element(certificate)
    tag, _, after = _element(rest)
    if tag == _VERSION:
        rest = after
    for _ in range(3):
        _, _, rest = _element(rest)
    tag, validity, _ = _element(rest)
    if tag != _SEQUENCE:
        raise ValueError("no validity where it should be")
    _, _, rest = _element(validity)
    tag, text, _ = _element(rest)
    return datetime.strptime(text.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC)


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """The first element's tag and content, and what follows it."""
    size, start = der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    if start + size > len(der):
        raise ValueError("it is cut short")
    return der[0], der[start : start + size], der[start + size :]
