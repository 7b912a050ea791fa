"""The questions of the dashboard: is that meant, and of which variant?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static


class Question(ModalScreen[str]):
    """Asks once more; answers "" for no, else the answer that was chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,n,q", "refuse", "no")]
    DEFAULT_CSS = """
    Question { align: center middle; background: $background 60%; }
    Question > Vertical { width: auto; max-width: 90%; height: auto; padding: 1 3; border: round $primary; background: $surface; }
    Question Static { width: auto; }
    """

    def __init__(self, question: str, answers: Sequence[str] = (), *, hint: str = "") -> None:
        super().__init__()
        self._question = question
        self._hint = hint
        self._answers = tuple(answers)

    def compose(self) -> ComposeResult:
        """The question, and the keys that answer it."""
        text = Text(self._question)
        if self._hint:
            text.append(f"\n\n{self._hint}", style="dim")
        elif self._answers:
            for number, answer in enumerate(self._answers, start=1):
                text.append(f"\n  {number}  {answer}")
            text.append("\n\nits number, or n for no", style="dim")
        else:
            text.append("\n\ny for yes, n for no", style="dim")
        yield Vertical(Static(text, id="question"))

    def on_key(self, event: Key) -> None:
        """Answer by one key."""
        if not self._answers and not self._hint and event.key == "y":
            event.stop()
            self.dismiss("yes")
        elif event.key.isdigit() and 0 < int(event.key) <= len(self._answers):
            event.stop()
            self.dismiss(self._answers[int(event.key) - 1])

    def action_refuse(self) -> None:
        """Nothing happens."""
        self.dismiss("")
