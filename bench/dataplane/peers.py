"""What every server of the bench is to a scenario: a name, a way to start it, and the running thing's address and tree."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.dataplane.load_plan import Dialect
from bench.dataplane.messages import INFER
from bench.dataplane.processes import Tree

OUR_VERSION = "this commit"
"""What stands for a version where the project itself is measured."""


class Unavailable(RuntimeError):
    """A peer is not installed here; the message says what is missing and how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started server.

    Attributes:
        tree: Its processes.
        port: Where it answers on 127.0.0.1.
        version: What it is.
        dialect: How it is spoken to.
        path: The gRPC method, or the HTTP path.
        helpers: Trees that belong to the scenario and end with it: backends, control planes.
    """

    tree: Tree
    port: int
    version: str
    dialect: Dialect = Dialect.GRPC
    path: str = INFER
    helpers: tuple[Tree, ...] = ()

    def stop(self) -> None:
        """End it and its helpers."""
        self.tree.stop()
        for helper in self.helpers:
            helper.stop()


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that can be measured.

    Attributes:
        name: As the tables show it.
        start: Starts it with its files in a folder; raises Unavailable where it is not installed.
    """

    name: str
    start: Callable[[Path], Running]
