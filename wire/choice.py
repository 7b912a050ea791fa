"""The two wires by name, each loaded only where it is chosen."""

from enum import StrEnum
from typing import assert_never

from anabranch.wire.seam import Wire


class WireKind(StrEnum):
    """A transport."""

    NGH2 = "ngh2"
    """The project's own; the default."""
    GRPCIO = "grpcio"
    """grpcio's server, where its behaviour matters more than its cost."""


def new_wire(kind: WireKind) -> Wire:
    """Return a wire that has not started.

    Args:
        kind: Which one.
    """
    match kind:
        case WireKind.NGH2:
            from anabranch.wire.ngh2_server import Ngh2Wire

            return Ngh2Wire()
        case WireKind.GRPCIO:
            from anabranch.wire.grpcio_server import GrpcioWire

            return GrpcioWire()
    assert_never(kind)
