"""The hash chain over decisions: a changed or missing one breaks every hash after it.

A decision is chained with a seal over what it rests on: the document, and the evidence folded in since the decision
before it. So a changed document or count breaks the chain as well, whatever the decision says.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

GENESIS = "0" * 64


def link(previous_hash: str, body: str, seal: str) -> str:
    """The hash of a decision.

    Args:
        previous_hash: Hash of the decision before it, `GENESIS` for the first.
        body: The decision's JSON text.
        seal: Of what it rests on; empty for decisions of a release that had none.
    """
    sealed = f"\n{seal}" if seal else ""
    return sha256(f"{previous_hash}\n{body}{sealed}".encode()).hexdigest()


def seal_of(document: str, evidence: Iterable[str]) -> str:
    """The digest of what a decision rests on.

    Args:
        document: The experiment's document as JSON with sorted keys.
        evidence: What was folded in since the decision before it, as JSON, in order.
    """
    digest = sha256(document.encode())
    for part in evidence:
        digest.update(b"\n")
        digest.update(part.encode())
    return digest.hexdigest()
