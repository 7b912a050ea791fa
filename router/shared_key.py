"""The key by which all replicas of a store sign assignment ids and hash units; the store knows its fingerprint only.

With another key, a replica would refuse the feedback of its neighbours' answers, and count their users as new. Whoever
reads the database, or a backup of it, cannot make assignment ids: the key itself is a file, handed out as the TLS key is.
"""

from __future__ import annotations

from hashlib import blake2b

from anabranch.router.settings import Settings, assignment_key
from anabranch.store.replica_port import ReplicaStore

_PINNED = "assignment key"


class KeyMismatch(Exception):
    """This replica has another key than those that use the store already; the message says what to do."""


def fingerprint(key: bytes) -> str:
    """What tells a key from another one, and gives nothing of it away."""
    return blake2b(key, digest_size=8, person=b"anabranch-key").hexdigest()


def check_key(settings: Settings, replicas: ReplicaStore) -> None:
    """See that this server's key is the one of its store; the first server's stands.

    Raises:
        KeyMismatch: If it is another one.
    """
    ours = fingerprint(assignment_key(settings))
    theirs = replicas.pin(_PINNED, ours)
    if ours != theirs:
        raise KeyMismatch(
            f"the key in {settings.key_file} has the fingerprint {ours}, the servers of this store have {theirs}: "
            f"copy assignment.key from the state folder of one of them, and give it with --assignment-key FILE"
        )
