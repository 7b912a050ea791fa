"""Who a client is by its certificate, the same on both wires.

The name is the first of: a URI among the certificate's alternative names (as SPIFFE's), the subject's common name, a DNS
name among the alternative names. It was checked against the authority that the server trusts, and nothing else was.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def certificate_identity(certificate: Mapping[str, Any] | None) -> str | None:
    """Name the holder of a verified certificate.

    Args:
        certificate: As `ssl.SSLObject.getpeercert` gives it; None or empty where the client showed none.
    """
    if not certificate:
        return None
    names: list[tuple[str, str]] = list(certificate.get("subjectAltName", ()))
    subject: list[tuple[str, str]] = [pair for part in certificate.get("subject", ()) for pair in part]
    return _first(
        [value for kind, value in names if kind == "URI"],
        [value for kind, value in subject if kind == "commonName"],
        [value for kind, value in names if kind == "DNS"],
    )


def properties_identity(properties: Mapping[str, Iterable[bytes]]) -> str | None:
    """Name the holder of a verified certificate.

    Args:
        properties: A call's `auth_context` in grpcio; empty without TLS.
    """

    def texts(name: str) -> list[str]:
        return [value.decode("utf-8", "replace") for value in properties.get(name, ())]

    return _first(texts("peer_uri"), texts("x509_common_name"), texts("peer_dns"))


def _first(*choices: list[str]) -> str | None:
    return next((choice[0] for choice in choices if choice), None)
