"""Which versions of the tables this release knows, told by the names of its migrations alone."""

from __future__ import annotations

from pathlib import Path

MIGRATIONS = Path(__file__).parent / "migrations"


def known_versions() -> list[str]:
    """The versions of the tables that this release knows, oldest first; the last one is the one it needs."""
    # A migration's file begins with its number: asking Alembic would load every migration at every start.
    return sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
