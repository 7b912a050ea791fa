"""What every call of the control service takes: one table, and a test that no method is missing from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from anabranch.store.access import Permission

SERVICE: Final = "anabranch.v1.ControlService"

NEEDS: Final[Mapping[str, Permission | None]] = {
    "WhoAmI": None,  # whoever is known at all
    "Apply": Permission.CHANGE,  # and OVERRIDE with force
    "Diff": Permission.READ,
    "List": Permission.READ,
    "Get": Permission.READ,
    "Describe": Permission.READ,
    "Watch": Permission.READ,
    "Decisions": Permission.READ,
    "Events": Permission.READ,  # what belongs to no experiment needs AUDIT
    "Request": Permission.CHANGE,
    "Evidence": Permission.READ,
    "Specs": Permission.READ,
    "Tenures": Permission.READ,
    "Verify": Permission.READ,
    "Variants": Permission.READ,
}
