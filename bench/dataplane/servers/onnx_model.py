"""The session that every in-process server runs: the settings of the project's own (`variants/sessions.py`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

_ERRORS_ONLY = 3


class OnnxModel:
    """An ONNX file on one thread.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.output = self._session.get_outputs()[0].name

    def run(self, feeds: Mapping[str, Any]) -> Any:
        """Compute the first output."""
        return self._session.run([self.output], dict(feeds))[0]
