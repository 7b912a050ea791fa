"""How long a database takes for every statement, and which it refuses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext


def watch_statements(engine: Engine, heard: Callable[[float, bool], None]) -> None:
    """Listen to an engine.

    Args:
        engine: The engine.
        heard: Called with the seconds, and whether the database refused it; on whichever thread asked.
    """

    def begin(
        connection: Any, _cursor: Any, _statement: Any, _values: Any, context: Any, _many: bool
    ) -> None:
        # On the connection where a statement has no context of its own, as BEGIN.
        (context or connection)._anabranch_begun_s = time.perf_counter()

    def end(connection: Any, _cursor: Any, _statement: Any, _values: Any, context: Any, _many: bool) -> None:
        heard(time.perf_counter() - (context or connection)._anabranch_begun_s, False)

    def fail(context: ExceptionContext) -> None:
        begun_s = getattr(context.execution_context or context.connection, "_anabranch_begun_s", None)
        heard(0.0 if begun_s is None else time.perf_counter() - begun_s, True)

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)
    event.listen(engine, "handle_error", fail)
