"""The full-screen dashboard: takes a look every second in a thread, and draws only the blocks that changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rich.console import Console, RenderableType
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Static

from anabranch.bandit.decision import Verb
from anabranch.cli.failures import CommandFailed, explain
from anabranch.cli.marks import PHASE_MARKS, PHASE_STYLES
from anabranch.cli.numbers import duration
from anabranch.cli.tables import weights_text
from anabranch.cli.top.asking import Question
from anabranch.cli.top.looker import Looker, Seen
from anabranch.cli.top.pages import BLOCKS, Column, Page, compose
from anabranch.cli.view_types import ArmState, ExperimentRow

_PAGES = tuple(Page)
_EDGES = 3
"""Columns that a stack of blocks keeps for itself: padding and the scrollbar."""
_KEYS = """\
1 … 5, tab      pages                p   pause the experiment
↑ ↓ space       scroll               r   resume it
esc             list of experiments  m   promote a candidate
enter           open one             a   abort: the baseline serves all
t               light or dark        u   undo a promotion
q               quit                 y   begin again"""
_HEADINGS = ("NAME", "PHASE", "STEP", "LIVE", "AGE", "MODEL", "WEIGHTS")
_ASKED = {
    Verb.PAUSE: "Pause {name}? Weights stay as they are.",
    Verb.RESUME: "Resume {name}?",
    Verb.PROMOTE: "Promote {variant} of {name}, whatever the verdicts?",
    Verb.ABORT: "Abort {name}? {baseline} will serve all traffic.",
    Verb.UNDO: "Undo the promotion of {name}? {baseline} will serve all traffic again.",
    Verb.RETRY: "Begin {name} again at its first step, with fresh evidence?",
}


class Block(Static):
    """A block that is drawn again only when it looks different."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = ""

    def show(self, block: RenderableType, width: int) -> None:
        """Show it, unless it is what is there."""
        console = Console(width=width, force_terminal=True, color_system="truecolor", legacy_windows=False)
        with console.capture() as captured:
            console.print(block)
        looks = captured.get()
        if looks != self._shown:
            self._shown = looks
            self.update(block)


class Stack(VerticalScroll):
    """A column of blocks by name; those that a page does not show are hidden, so that turning pages mounts nothing."""

    can_focus = False

    def compose(self) -> ComposeResult:
        """Every block there is, in the order in which pages show them."""
        self.blocks = {name: Block() for name in BLOCKS}
        yield from self.blocks.values()

    def show(self, column: Column) -> None:
        """Show these blocks and no others."""
        shown = dict(column.blocks)
        for name, block in self.blocks.items():
            block.display = name in shown
            if name in shown:
                block.show(shown[name], column.width)


class Top(App[None]):
    """Experiments, live."""

    TITLE = "anabranch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #columns { height: 1fr; }
    Stack { height: 1fr; padding: 0 1; scrollbar-size: 1 1; scrollbar-gutter: stable; width: 1fr; overflow-x: hidden; }
    #right { display: none; }
    DataTable { height: 1fr; display: none; background: $background; overflow-x: hidden; }
    #hint, #status { height: 1; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "list", "list"),
        Binding("q", "quit", "quit"),
        *(Binding(str(number), f"page('{page}')", page.value) for number, page in enumerate(_PAGES, start=1)),
        # Before the screen, which would move the focus.
        Binding("tab,right", "turn(1)", "next page", priority=True),
        Binding("shift+tab,left", "turn(-1)", "page before", priority=True),
        Binding("down,j", "scroll(1)", "down"),
        Binding("up,k", "scroll(-1)", "up"),
        Binding("pagedown,space", "scroll(20)", "page down"),
        Binding("pageup", "scroll(-20)", "page up"),
        Binding("p", "ask('pause')", "pause"),
        Binding("r", "ask('resume')", "resume"),
        Binding("m", "ask('promote')", "promote"),
        Binding("a", "ask('abort')", "abort"),
        Binding("u", "ask('undo')", "undo"),
        Binding("y", "ask('retry')", "retry"),
        Binding("t", "turn_theme", "light or dark"),
        Binding("question_mark", "keys", "keys"),
    ]

    def __init__(
        self, looker: Looker, *, name: str | None = None, refresh_s: float = 1.0, is_light: bool = False
    ) -> None:
        super().__init__(ansi_color=False)
        self._looker = looker
        self._name = name
        self._refresh_s = refresh_s
        self._page = Page.OVERVIEW
        self._seen: Seen | None = None
        self._rows: list[ExperimentRow] = []
        self._is_looking = False
        self._asks = 0
        self._first_theme = "textual-light" if is_light else "textual-dark"

    def compose(self) -> ComposeResult:
        """One line of hints, the columns or the list, one line of status."""
        yield DataTable[Any](id="list", cursor_type="row", zebra_stripes=False)
        with Horizontal(id="columns"):
            yield Stack(id="left")
            yield Stack(id="right")
        yield Static(id="status")
        yield Static(id="hint")

    def on_mount(self) -> None:
        """Begin to look."""
        self.theme = self._first_theme
        table = self.query_one(DataTable)
        for heading in _HEADINGS:
            table.add_column(heading, key=heading)
        self.set_interval(self._refresh_s, self.take_look)
        self.take_look()

    def on_resize(self) -> None:
        """Compose for the new size, which holds from the next turn on."""
        self.call_after_refresh(self._draw)

    def take_look(self) -> None:
        """Look in a thread: a slow database must not hold the keys up. A look that still goes on is waited for."""
        if self._is_looking:
            return
        self._is_looking = True
        self.run_worker(self._look, thread=True, group="look", exit_on_error=False)

    def _look(self) -> None:
        name = self._name
        try:
            if name is None:
                rows = self._looker.rows()
                self.call_from_thread(self._show_rows, rows)
            else:
                seen = self._looker.look(name)
                self.call_from_thread(self._show_seen, name, seen)
        except Exception as error:  # noqa: BLE001  # whatever a store raises is said, and looked at again
            self.call_from_thread(self._show_failure, error)
        finally:
            self._is_looking = False

    def _show_rows(self, rows: list[ExperimentRow]) -> None:
        self._rows = rows
        if self._name is None:
            self._draw()
            self._say("" if rows else "no experiments yet: create one with `anabranch apply -f FILE`")

    def _show_seen(self, name: str, seen: Seen) -> None:
        if name == self._name:
            self._seen = seen
            self._draw()
            self._say("")

    def _show_failure(self, error: Exception) -> None:
        failure = explain(error)
        self._say(f"cannot look: {failure.message if failure else error}", style="bold red")

    def _say(self, text: str, style: str = "yellow") -> None:
        status = self.query_one("#status", Static)
        status.display = bool(text)
        line = Text(text.splitlines()[0] if text else "", style=style, no_wrap=True, overflow="ellipsis")
        status.update(line)

    def _draw(self) -> None:
        if not self.is_mounted(self.query_one("#hint")):
            return
        is_list = self._name is None
        self.query_one(DataTable).display = is_list
        self.query_one("#columns").display = not is_list
        self.query_one("#hint", Static).update(_hint(self._page, is_list=is_list, width=self.size.width - 2))
        if is_list:
            self._draw_list()
        elif self._seen is not None:
            columns = compose(
                self._page,
                self._seen.look,
                self._looker.track,
                self._seen.decisions,
                self.size.width - _EDGES,
                self.size.height - 2,
            )
            left, right = self.query_one("#left", Stack), self.query_one("#right", Stack)
            right.display = len(columns) > 1
            left.show(columns[0])
            if len(columns) > 1:
                right.styles.width = columns[1].width + _EDGES
                right.show(columns[1])

    def _draw_list(self) -> None:
        table = self.query_one(DataTable)
        known = {str(key.value) for key in table.rows}
        for row in self._rows:
            cells = _cells(row)
            if row.name not in known:
                table.add_row(*cells, key=row.name)
                continue
            for heading, cell in zip(_HEADINGS, cells, strict=True):
                if table.get_cell(row.name, heading) != cell:
                    table.update_cell(row.name, heading, cell, update_width=True)
        for gone in known - {row.name for row in self._rows}:
            table.remove_row(gone)
        table.focus()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the experiment."""
        self.open(str(event.row_key.value))

    def open(self, name: str | None) -> None:
        """Show one experiment, or the list."""
        self._name, self._seen, self._page = name, None, Page.OVERVIEW
        self.set_focus(None)
        self._draw()
        self.take_look()

    def action_list(self) -> None:
        """To the list."""
        if self._name is not None:
            self.open(None)

    def action_page(self, page: str) -> None:
        """Show a page."""
        if self._name is not None and len(self.screen_stack) == 1:
            self._page = Page(page)
            self._draw()

    def action_turn(self, by: int) -> None:
        """Show the next page, or the one before."""
        place = (_PAGES.index(self._page) + by) % len(_PAGES)
        self.action_page(_PAGES[place])

    def action_scroll(self, lines: int) -> None:
        """Scroll what does not fit."""
        self.query_one("#left", Stack).scroll_relative(y=lines, animate=False)

    def action_keys(self) -> None:
        """Say which key does what."""
        self.push_screen(Question(_KEYS, hint="any of esc, n, q goes back"))

    def action_turn_theme(self) -> None:
        """Light becomes dark."""
        self.theme = "textual-dark" if self.theme == "textual-light" else "textual-light"

    def action_ask(self, verb: str) -> None:
        """Ask something of the experiment, after one more question."""
        if self._name is None or self._seen is None:
            self._say("open an experiment first")
            return
        asked = Verb(verb)
        view = self._seen.look.view
        live = [arm.name for arm in view.arms if arm.state is ArmState.LIVE]
        if asked is Verb.PROMOTE and len(live) > 1:
            question = Question(f"Promote which variant of {view.name}, whatever the verdicts?", live)
            self.push_screen(question, self._answered(view.name, asked))
            return
        variant = live[0] if asked is Verb.PROMOTE and live else ""
        text = _ASKED[asked].format(name=view.name, baseline=view.baseline, variant=variant or "nothing")
        self.push_screen(Question(text), self._answered(view.name, asked))

    def _answered(self, name: str, verb: Verb) -> Callable[[str | None], None]:
        def act(answer: str | None) -> None:
            if answer:
                variant = answer if verb is Verb.PROMOTE and answer != "yes" else ""
                self.run_worker(
                    lambda: self._request(name, verb, variant), thread=True, group="ask", exit_on_error=False
                )

        return act

    def _request(self, name: str, verb: Verb, variant: str) -> None:
        try:
            self._looker.ask(name, verb, variant)
        except CommandFailed as refusal:
            said = f"{refusal.message} {refusal.advice}".strip()
            self.call_from_thread(self.notify, said, severity="warning", timeout=8)
        except Exception as error:  # noqa: BLE001  # the dashboard goes on, and says what happened
            failure = explain(error)
            self.call_from_thread(
                self.notify, failure.message if failure else str(error), severity="error", timeout=8
            )
        else:
            self.call_from_thread(self.notify, f"{verb} asked: the controller's next tick answers", timeout=5)
            self.call_from_thread(self.take_look)


def _cells(row: ExperimentRow) -> tuple[Text | str, ...]:
    step = "-" if row.step == 0 else f"{row.step}/{row.steps} {row.step_name}"
    return (
        row.name,
        Text(f"{PHASE_MARKS[row.phase]} {row.phase}", style=PHASE_STYLES[row.phase]),
        step,
        f"{row.live}/{row.candidates}",
        duration(row.age_s),
        row.model,
        weights_text(row.weights),
    )


def _hint(page: Page, *, is_list: bool, width: int) -> Text:
    """The keys, as many as fit."""
    text = Text(no_wrap=True, overflow="ellipsis")
    last = _key("?", "keys") + _key("q", "quit")
    if is_list:
        keys = [("enter", "open"), ("t", "light/dark")]
    else:
        for number, each in enumerate(_PAGES, start=1):
            text.append(f" {number} {each} ", style="bold reverse" if each is page else "dim")
        text.append(" ")
        keys = [
            ("p", "pause"),
            ("r", "resume"),
            ("m", "promote"),
            ("a", "abort"),
            ("u", "undo"),
            ("esc", "list"),
        ]
    for key, what in keys:
        part = _key(key, what)
        if text.cell_len + part.cell_len + last.cell_len <= width:
            text.append_text(part)
    return text + last


def _key(key: str, what: str) -> Text:
    return Text.assemble((f"{key} ", "bold"), (f"{what}  ", "dim"))
