"""Tell a database that cannot be reached, and will be again, from a mistake of ours."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError


def outage(error: BaseException) -> str | None:
    """Why the database cannot be used now, on one line; None when that is not what went wrong."""
    if not isinstance(error, DBAPIError):
        return None
    if not isinstance(error, OperationalError | InterfaceError) and not error.connection_invalidated:
        return None
    lines = str(error.orig or error).strip().splitlines()
    return lines[0] if lines else type(error.orig or error).__name__
