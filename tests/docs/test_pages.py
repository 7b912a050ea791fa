"""The commands of docs/howto, run as a reader would run them, in a folder of their own.

A block whose first line is ```` ```sh run ```` is run; `background` leaves it running once it serves; `exit=N` says how it ends.
A block with `file=NAME` is written to that file. A page says by a comment in its first line when it is run: always, slow
(`make test ARGS='-m slow tests/docs'`), postgres (where a server of it can be started), fresh (`test_fresh_machine.py`: in a
shell that has nothing of ours), or never, and why.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs" / "howto").glob("*.md"))
PORTS = re.compile(r"\b(8001|8002|8003)\b")
START_S, RUN_S = 120.0, 600.0


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, what is said of it, and its text."""

    language: str
    marks: tuple[str, ...]
    text: str

    def mark(self, name: str) -> str | None:
        """The value of `name=value`, or nothing for a plain word that is there; None where it is not."""
        for each in self.marks:
            key, _, value = each.partition("=")
            if key == name:
                return value
        return None


def when(page: Path) -> str:
    found = re.match(r"<!-- run: (always|slow|postgres|fresh|never: .+) -->\n# ", page.read_text())
    assert found, (
        f"{page.name} must begin with <!-- run: always|slow|postgres|fresh|never: why --> and a title"
    )
    return found[1]


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(language, tuple(marks.split()), text) for language, marks, text in found]


class Reader:
    """Somebody who follows a page: a shell in an empty folder, with the command installed and `examples/` at hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[str, int] = {}
        self.running: list[subprocess.Popen[str]] = []
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANABRANCH_")}
        self.environment = kept | {"PATH": path, "HOME": str(folder), "COLUMNS": "120"}

    def follow(self, block: Block) -> None:
        if (name := block.mark("file")) is not None:
            (self.folder / name).write_text(block.text)
        elif block.mark("background") is not None:
            self._start(self._placed(block.text))
        elif block.mark("run") is not None:
            self._run(self._placed(block.text), int(block.mark("exit") or 0))

    def _placed(self, text: str) -> str:
        """The commands with free ports in place of the page's, which others may use here."""
        text = re.sub(r"anabranch serve(?![^\n]*--port )", "anabranch serve --port 8001", text)
        return PORTS.sub(lambda found: str(self._port(found[1])), text)

    def _port(self, written: str) -> int:
        if written not in self.ports:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ports[written] = int(free.getsockname()[1])
        return self.ports[written]

    def _run(self, commands: str, code: int) -> None:
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        assert ran.returncode == code, f"{commands}\nended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"

    def _start(self, commands: str) -> None:
        log = self.folder / f"background-{len(self.running)}.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {commands.strip()}"],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.running.append(process)
        watchdog = threading.Timer(START_S, process.kill)
        watchdog.start()
        assert process.stdout is not None
        serves = any(line.startswith("serving on ") for line in process.stdout)
        watchdog.cancel()
        assert serves, f"{commands} did not begin to serve:\n{log.read_text()[-3000:]}"

    def leave(self) -> None:
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.leave()


def follow(reader: Reader, page: Path) -> None:
    for block in blocks(page):
        reader.follow(block)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if when(page) == "always"], ids=lambda page: page.stem
)
def test_the_commands_of_a_page_work(page: Path, reader: Reader) -> None:
    follow(reader, page)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [page for page in PAGES if when(page) == "slow"], ids=lambda page: page.stem)
def test_the_commands_of_a_longer_page_work(page: Path, reader: Reader) -> None:
    follow(reader, page)


@pytest.mark.postgres
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if when(page) == "postgres"], ids=lambda page: page.stem
)
def test_the_commands_of_a_page_about_postgresql_work(
    page: Path, reader: Reader, empty_postgres_url: str
) -> None:
    reader.environment["ANABRANCH_STORE"] = empty_postgres_url
    follow(reader, page)


def test_there_are_the_ten_commonest_tasks() -> None:
    assert len(PAGES) >= 10
    assert {when(page).partition(":")[0] for page in PAGES} <= {
        "always",
        "slow",
        "postgres",
        "fresh",
        "never",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_run_is_written_so_that_it_can_be(page: Path) -> None:
    for block in blocks(page):
        marks = {mark.partition("=")[0] for mark in block.marks}
        assert marks <= {"run", "background", "exit", "file"}, f"{page.name}: {block.marks}"
        assert "run" not in marks or block.language == "sh", f"{page.name}: only sh is run"
        assert not ("file" in marks and "run" in marks), f"{page.name}: a file is written, not run"
    if when(page).startswith("never"):
        assert not any(block.mark("run") is not None for block in blocks(page)), f"{page.name} is never run"


def documents() -> list[Path]:
    return [
        REPOSITORY / "README.md",
        *sorted((REPOSITORY / "docs").rglob("*.md")),
        *sorted((REPOSITORY / "deploy").rglob("*.md")),
    ]


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor and found.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in {_anchor(title) for title in titles}, f"{page.name} links to {target}"


def test_every_cell_about_another_project_says_where_it_is_from() -> None:
    page = (REPOSITORY / "docs" / "comparison.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        for line in page.splitlines()
        if line.startswith("| ") and not line.startswith("| |")
    ]
    assert len(rows) >= 10
    for name, _ours, *theirs in rows:
        assert len(theirs) == 6, name
        for cell in theirs:
            assert re.fullmatch(r"\[[^\]]+\]\(https://[^)\s]+\)", cell), f"{name}: {cell}"


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
