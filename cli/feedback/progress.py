"""How far a file has been acknowledged, beside the file: an import that was interrupted goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson


@dataclass(slots=True, kw_only=True)
class Progress:
    """What was done of a file.

    Attributes:
        rows: Rows from the beginning that need not be looked at again: acknowledged, or refused.
        accepted: Of those, by metric.
        refused: Of those.
    """

    rows: int = 0
    accepted: dict[str, int] = field(default_factory=dict)
    refused: int = 0


class ProgressFile:
    """Keeps a `Progress` on disk.

    Args:
        path: The file that is imported.
        given: What else decides how its rows are read: other arguments begin anew.
    """

    def __init__(self, path: Path, given: Mapping[str, str]) -> None:
        found = path.stat()
        self._identity = {"size": str(found.st_size), "changed": str(found.st_mtime_ns), **given}
        self.path = path.with_name(path.name + ".import")

    def load(self) -> Progress:
        """What was done; nothing when the file was changed since, or was never begun."""
        try:
            kept = orjson.loads(self.path.read_bytes())
            if kept["of"] == self._identity:
                return Progress(**kept["done"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Sent once more, an outcome still counts once: beginning anew is always right.
            pass
        return Progress()

    def save(self, done: Progress) -> None:
        """Keep what was done, whole."""
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(
            orjson.dumps(
                {
                    "of": self._identity,
                    "done": {"rows": done.rows, "accepted": done.accepted, "refused": done.refused},
                }
            )
        )
        fresh.replace(self.path)

    def remove(self) -> None:
        """Everything is done."""
        self.path.unlink(missing_ok=True)
