"""What a supervisor has of its control port."""

import asyncio
from pathlib import Path

import pytest

from anabranch.router.access.authenticator import Rules
from anabranch.router.control.beside import ServerControl
from anabranch.router.control.verbs import Served
from anabranch.router.settings import Clients, InvalidSettings, Settings
from anabranch.store.access import Role
from anabranch.store.memory import MemoryStore
from anabranch.store.tokens import issue


def control(settings: Settings, store: MemoryStore, told: list[Rules]) -> ServerControl:
    return ServerControl(
        settings, store, served=lambda: Served(manifests={}, baselines={}), tell_workers=told.append
    )


def test_where_everybody_must_prove_who_they_are_somebody_must_be_able_to(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path, state=tmp_path, clients=Clients.KNOWN)
    store = MemoryStore()
    told: list[Rules] = []

    async def open_it() -> None:
        await control(settings, store, told).open()

    with pytest.raises(InvalidSettings, match="anabranch token create NAME --role feedback"):
        asyncio.run(open_it())
    token, _ = issue(
        name="ci",
        role=Role.FEEDBACK,
        models=[],
        now=0.0,
        expires_s=None,
        created_by="ada",
        entropy=lambda count: bytes(count),
    )
    store.access.save_token(token, verb="token create", actor="ada", now=0.0)
    asyncio.run(open_it())
    assert list(told[-1].tokens) == [token.id]


def test_without_a_port_nothing_is_opened_and_no_lane_taken(tmp_path: Path) -> None:
    store = MemoryStore()

    async def open_and_close() -> str | None:
        made = control(Settings(models=tmp_path, state=tmp_path), store, [])
        await made.open()
        await made.refresh()
        await made.close()
        return made.address

    assert asyncio.run(open_and_close()) is None
    assert store.next_lane() == 1
