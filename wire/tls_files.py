"""A port's TLS files, followed as they change: new connections meet the new ones, those that are open go on.

A change is seen by the files' times and sizes. Files that make no server, such as half of a renewed pair, change nothing
until they do; the log says so once a change.
"""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from anabranch.wire.certificate_end import certificate_end
from anabranch.wire.listen import tls_context
from anabranch.wire.seam import Tls

_log = logging.getLogger(__name__)
_NEAR = timedelta(days=7)
"""Before its end, a certificate that nobody renewed is told of."""


class FileTimes:
    """Tells whether files have changed since it was asked last.

    Args:
        tls: Names them.
    """

    def __init__(self, tls: Tls) -> None:
        self.paths = [path for path in (tls.certificate_file, tls.key_file, tls.client_ca_file) if path]
        self._seen = self._look()

    def have_changed(self) -> bool:
        """Whether any file is another than before."""
        now = self._look()
        if now == self._seen:
            return False
        self._seen = now
        return True

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self.paths]


class TlsFiles:
    """The context that connections are accepted with.

    Args:
        tls: The files.

    Raises:
        OSError: They make no server.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._times = FileTimes(tls)
        self._current = tls_context(tls)
        self._tell_of_end()
        # The listener keeps one context for good; at each handshake that hands over to the current one, which brings its
        # own certificate, key and authorities.
        self.context = tls_context(tls)
        self.context.sni_callback = self._hand_over

    def follow(self) -> bool:
        """Read the files again if they have changed; whether new ones are in use."""
        if not self._times.have_changed():
            return False
        try:
            self._current = tls_context(self._tls)
        except OSError as error:
            gone = ", ".join(str(path) for path in self._times.paths if not path.is_file())
            _log.error(
                "the TLS files have changed and make no server, the former stay in use: %s",
                f"no file {gone}" if gone else error,
            )
            return False
        _log.info("the TLS files have changed: new connections use them")
        self._tell_of_end()
        return True

    def _tell_of_end(self) -> None:
        path = self._tls.certificate_file
        try:
            end = certificate_end(path)
        except (OSError, ValueError) as error:
            _log.warning("when the port's certificate ends is not known: %s", error)
            return
        if end <= datetime.now(UTC):
            _log.error(
                "the certificate in %s ended at %s: clients that check it refuse", path, end.isoformat()
            )
        elif end - datetime.now(UTC) < _NEAR:
            _log.warning("the certificate in %s ends soon, at %s", path, end.isoformat())

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
