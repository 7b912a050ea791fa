"""Where things are kept unless somebody says otherwise."""

from __future__ import annotations

from pathlib import Path

SQLITE = "sqlite:///"
"""How the URL of a database file begins."""

DEFAULT_STORE = "sqlite:///.state/anabranch.db"
DEFAULT_MODELS = Path(".state/models")
DEFAULT_STATE = Path(".state")
