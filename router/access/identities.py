"""The file that gives names in client certificates a role: the other way, beside tokens, to be somebody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anabranch.store.access import Principal, Role
from anabranch.store.bounded_yaml import UnreadableYaml, load_yaml


class InvalidIdentities(ValueError):
    """The file of identities has problems; the message lists all of them."""


class _Identity(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    models: tuple[str, ...] = ()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    identities: dict[str, _Identity] = Field(min_length=1)


def read_identities(path: Path) -> Mapping[str, Principal]:
    """By the name in a certificate, whom it stands for.

    The file is YAML: `identities: {spiffe://example.org/ci: {role: operator, models: [minilm]}}`. A name is matched
    whole; which part of a certificate it is, `wire.peer_identity` says.

    Raises:
        InvalidIdentities: It cannot be read, or something in it is no identity.
    """
    try:
        given = _File.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, UnreadableYaml) as error:
        raise InvalidIdentities(f"{path} cannot be read as identities: {error}") from error
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(str(part) for part in item['loc']) or 'the file'}: {item['msg']}"
            for item in error.errors()
        ]
        raise InvalidIdentities("\n".join(problems)) from error
    return {
        name: Principal(actor=f"certificate:{name}", role=identity.role, models=frozenset(identity.models))
        for name, identity in given.identities.items()
    }
