"""The JSON form of a decision's certificate: what to hand to whoever wants to compute it again."""

from __future__ import annotations

import json

from pydantic import TypeAdapter

from anabranch.bandit.certificate import Certificate

_CERTIFICATE: TypeAdapter[Certificate] = TypeAdapter(Certificate)


def certificate_text(certificate: Certificate) -> str:
    """A certificate as JSON."""
    # Not dump_json: it writes an infinite number as null, which would not come back.
    return json.dumps(_CERTIFICATE.dump_python(certificate), separators=(",", ":"))


def certificate_from(text: str) -> Certificate:
    """The certificate in a JSON text."""
    return _CERTIFICATE.validate_json(text)
