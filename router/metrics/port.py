"""The metrics port: `GET /metrics` over HTTP/1.1 and nothing else, on a thread, within fixed bounds.

It only reads. A client that is slow or silent is let go, and as many as may are served at once, so that whoever reaches
the port can neither change anything nor hold the server up.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterable
from threading import BoundedSemaphore, Thread
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from anabranch.router.settings import InvalidSettings

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PATH: Final = "/metrics"
MOST_CLIENTS: Final = 8
TIMEOUT_S: Final = 10.0
"""A client that has not asked and read within this time is let go."""
_log = logging.getLogger(__name__)


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT_S
    server_version = "anabranch"
    sys_version = ""

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)


class _Server(WSGIServer):
    """Serves each connection on a thread of its own, of which there are a few."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._room = BoundedSemaphore(MOST_CLIENTS)
        self._since: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The parent asks DNS for this machine's name, which may take seconds; nobody needs it.
        socket_address = self.server_address
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(socket_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        Thread(target=self._serve, args=(request, client_address), daemon=True).start()

    def service_actions(self) -> None:
        """Let clients go that dawdle; called twice a second."""
        now = time.monotonic()
        for request, since in list(self._since.items()):
            if now - since > TIMEOUT_S:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def _serve(self, request: Any, client_address: Any) -> None:
        self._since[request] = time.monotonic()
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            _log.debug("a client of the metrics port went away: %s", error)
        except Exception:  # noqa: BLE001  # a scrape that fails must say why, and must not end the server
            _log.exception("a scrape failed")
        finally:
            self._since.pop(request, None)
            self.shutdown_request(request)
            self._room.release()


class MetricsPort:
    """Serves a registry.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.
        registry: What is told.

    Attributes:
        address: Where it is read.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._server = _Server((host, port), family)
        self._server.set_app(_only_metrics(make_wsgi_app(registry)))
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._server.server_port}{PATH}"
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def open_metrics_port(host: str, port: int | None, registry: CollectorRegistry) -> MetricsPort | None:
    """The port that was asked for, open; None where none was.

    Raises:
        InvalidSettings: It is taken, or the address is none of this machine's.
    """
    if port is None:
        return None
    try:
        return MetricsPort(host, port, registry)
    except OSError as error:
        raise InvalidSettings(
            f"the metrics cannot be served on {host}:{port}: {error.strerror}; "
            "choose another --metrics-port or --metrics-host, or 0 for a free port"
        ) from error


def _only_metrics(app: WSGIApplication) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") != "GET":
            start_response("405 Method Not Allowed", [("Allow", "GET"), ("Content-Type", "text/plain")])
            return [b"this port is read only: GET /metrics\n"]
        if environ.get("PATH_INFO") != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"there is /metrics here, and nothing else\n"]
        return app(environ, start_response)

    return answer
