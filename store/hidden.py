"""What of a document is not for everybody who may read it: the paths of webhooks, which are keys to somebody's chat or build server.

The host stays, so that it is seen where a gate asks; what is left is a document that can be read like any other, but for its seal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

HIDDEN_PATH: Final = "/hidden-from-viewers"
"""Stands for the path and query of a webhook."""


def hide_webhooks(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every webhook's address as far as its host."""
    return {key: _hidden(key, value) for key, value in document.items()}


def hide_in_text(text: str) -> str:
    """The same for a document as JSON; any other text as it is."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return json.dumps(hide_webhooks(read), sort_keys=True) if isinstance(read, dict) else text


def has_hidden(document: Mapping[str, Any]) -> bool:
    """Whether something was hidden in a document."""
    return HIDDEN_PATH in json.dumps(document)


def _hidden(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        inner = hide_webhooks(value)
        if key == "webhook" and isinstance(address := inner.get("url"), str):
            parts = urlsplit(address)
            inner["url"] = f"{parts.scheme}://{parts.netloc}{HIDDEN_PATH}"
        return inner
    if isinstance(value, list):
        return [_hidden(key, each) for each in value]
    return value
