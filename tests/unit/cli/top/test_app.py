"""The dashboard as people use it, driven by Textual's pilot."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from anabranch.cli.top.app import Stack, Top
from anabranch.cli.top.asking import Question
from anabranch.cli.top.looker import Looker
from anabranch.store.sql import SqlStore

Shell = Any
NEVER_S = 3_600.0


def drive(
    looker: Looker,
    act: Callable[[Top, Pilot[None]], Awaitable[None]],
    *,
    size: tuple[int, int] = (80, 24),
    name: str | None = "tiny",
) -> None:
    async def run() -> None:
        app = Top(looker, name=name, refresh_s=NEVER_S)
        async with app.run_test(size=size) as pilot:
            await settle(app, pilot)
            await act(app, pilot)

    asyncio.run(run())


async def settle(app: Top, pilot: Pilot[None]) -> None:
    """Every look and request is done, and what it brought is drawn."""
    await app.workers.wait_for_complete()
    # One turn draws, the next lays out what was mounted.
    await pilot.pause()
    await pilot.pause()


def screen(app: Top) -> str:
    """The characters on the screen."""
    return "\n".join(
        "".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()
    )


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
def test_it_opens_with_the_experiment(looker: Looker, size: tuple[int, int]) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        shown = screen(app)
        for text in ("tiny", "VARIANT", "VERDICTS", "1 overview", "q quit"):
            assert text in shown
        assert ("WHO IS BEST" in shown) == (size[0] == 160)

    drive(looker, act, size=size)


def test_pages_are_turned_and_the_screen_may_change_its_size(looker: Looker) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        for key, text in (("2", "TRAFFIC SPLIT"), ("3", "CLAIMS"), ("4", "LATENCY"), ("5", "DECISIONS")):
            await pilot.press(key)
            await settle(app, pilot)
            assert text in screen(app)
        await pilot.press("tab")
        await settle(app, pilot)
        assert "VERDICTS" in screen(app)
        await pilot.resize_terminal(160, 50)
        await settle(app, pilot)
        assert "WHO IS BEST" in screen(app)

    drive(looker, act)


def test_the_list_opens_an_experiment_and_escape_returns(looker: Looker) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        assert "NAME" in screen(app)
        await pilot.press("enter")
        await settle(app, pilot)
        assert "VERDICTS" in screen(app)
        await pilot.press("escape")
        await settle(app, pilot)
        assert "VERDICTS" not in screen(app)
        assert "tiny" in screen(app)

    drive(looker, act, name=None)


def test_nothing_is_asked_without_a_yes(looker: Looker, store: SqlStore) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("a")
        await pilot.pause()
        assert isinstance(app.screen, Question)
        assert "Abort tiny? fp32 will serve all traffic." in screen(app)
        await pilot.press("n")
        await settle(app, pilot)
        assert store.pending("tiny") == ()

    drive(looker, act)


def test_a_yes_asks_in_the_persons_name(looker: Looker, store: SqlStore) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("a")
        await pilot.pause()
        await pilot.press("y")
        await settle(app, pilot)
        (command,) = store.pending("tiny")
        assert (command.verb, command.actor) == ("abort", "ada")
        await settle(app, pilot)
        assert "asked" in screen(app)

    drive(looker, act)


def test_what_is_not_possible_is_said_and_not_asked(looker: Looker, store: SqlStore) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("u")
        await pilot.pause()
        await pilot.press("y")
        await settle(app, pilot)
        assert store.pending("tiny") == ()
        assert any("cannot undo tiny" in note.message for note in app._notifications)

    drive(looker, act)


def test_a_store_that_fails_is_said_and_looked_at_again(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        def broken(_: str) -> None:
            raise OSError("disk is gone")

        monkeypatch.setattr(looker.store, "experiment", broken)
        app.take_look()
        await settle(app, pilot)
        assert "cannot look: disk is gone" in screen(app)
        assert "VERDICTS" in screen(app)
        monkeypatch.undo()
        app.take_look()
        await settle(app, pilot)
        assert "disk is gone" not in screen(app)

    drive(looker, act)


def test_a_block_that_looks_the_same_is_not_drawn_again(looker: Looker) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        blocks = app.query_one("#left", Stack).blocks
        drawn: list[str] = []
        for name, block in blocks.items():
            block.update = lambda *_, name=name, **__: drawn.append(name)  # type: ignore[method-assign]
        app.take_look()
        await settle(app, pilot)
        # Only the clock went on.
        assert "title" in drawn
        assert not {"verdicts", "log"} & set(drawn)

    drive(looker, act)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_looks_do_not_make_it_grow(looker: Looker) -> None:
    async def act(app: Top, pilot: Pilot[None]) -> None:
        sizes = []
        for look in range(3_001):
            app.take_look()
            await settle(app, pilot)
            if look in (500, 3_000):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        assert sizes[1] - sizes[0] < 200_000

    tracemalloc.start()
    try:
        drive(looker, act, size=(160, 50))
    finally:
        tracemalloc.stop()
