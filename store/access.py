"""Who may do what: roles and what each allows. Pure values; nothing here knows a transport or a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a person or a program is here for."""

    VIEWER = "viewer"
    FEEDBACK = "feedback"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    """One kind of thing that can be allowed."""

    READ = "read"  # see experiments, decisions, variants
    INFER = "infer"  # ask models
    FEEDBACK = "feedback"  # report outcomes
    CHANGE = "change"  # apply documents, promote, pause, resume, abort, retry, undo
    OVERRIDE = "override"  # let in candidates that failed the offline gate
    AUDIT = "audit"  # see what everybody did, refused attempts included


GRANTS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.FEEDBACK: frozenset({Permission.INFER, Permission.FEEDBACK}),
    Role.OPERATOR: frozenset(
        {Permission.READ, Permission.INFER, Permission.FEEDBACK, Permission.CHANGE},
    ),
    Role.ADMIN: frozenset(Permission),
}
"""The one table of roles. A viewer asks no model and a program that infers sees no experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody whose identity was proven, or who needs none.

    Attributes:
        actor: The name in the audit log, such as `token:ci` or `certificate:spiffe://example/ci`.
        role: What they are here for.
        models: The only models they may touch; empty means every one.
    """

    actor: str
    role: Role
    models: frozenset[str] = frozenset()

    def may(self, permission: Permission, model: str | None = None) -> bool:
        """Whether they may do this.

        Args:
            permission: What it takes.
            model: Whose model it is about; None where it is about no single one.
        """
        if permission not in GRANTS[self.role]:
            return False
        return model is None or self.sees(model)

    def sees(self, model: str) -> bool:
        """Whether a model is one of theirs."""
        return not self.models or model in self.models
