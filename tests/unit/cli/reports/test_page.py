import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from anabranch.cli.reports.page import page as write_page
from anabranch.cli.reports.telling import tell

Begin = Callable[..., None]
Shell = Any
VOID = {"meta", "link", "br"}


class Outline(HTMLParser):
    """Checks that tags close in order, and remembers what could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(shell: Shell, live: Begin, tmp_path: Path) -> str:
    live()
    ran = shell(
        "report", "tiny", "--html", str(tmp_path / "out" / "report.html"), "--plots", str(tmp_path / "plots")
    )
    assert (ran.code, ran.out) == (0, "")
    return (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_nothing_else(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    for tag, attributes in outline.seen:
        assert tag not in {"script", "iframe", "img", "object", "base", "form"}
        assert not any(name.startswith("on") for name in attributes)
        assert not {"src", "srcset", "action"} & attributes.keys()
    assert re.findall(r'href="([^"]*)"', page) == ["data:,"]
    # The only addresses are names of XML's.
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {"http://www.w3.org/2000/svg"}


def test_it_tells_what_was_asked_what_happened_and_the_proof(page: str, shell: Shell) -> None:
    store = shell.store()
    kept = store.decisions("tiny")
    store.close()
    for text in ("What was asked", "Variants", "Verdicts", "What happened", "Proof", "setWeight: 20"):
        assert text in page
    for decision in kept:
        assert decision.hash in page
    assert page.count("<svg") == 2 * page.count("<figure>") >= 4


def test_plots_are_files_that_stand_alone(page: str, tmp_path: Path) -> None:
    files = {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "plots").iterdir()}
    assert {"traffic.svg", "latency.svg", "metric-fidelity.svg"} <= files.keys()
    for text in files.values():
        assert "prefers-color-scheme" in text
        # Many programs that show SVG know no variables.
        assert "var(" not in text
        assert re.match(r'<svg [^>]* width="\d+" height="\d+"', text)
    titles = {re.search(r"<title>(.*?)</title>", text).group(1) for text in files.values()}  # type: ignore[union-attr]  # else it failed
    assert len(titles) == len(files)
    assert "<title>Traffic split over time.</title>" in files["traffic.svg"]


def test_plots_are_pictures_where_asked(page: str, shell: Shell, tmp_path: Path) -> None:
    ran = shell("report", "tiny", "--plots", str(tmp_path / "png"), "--plots-as", "png")
    assert (ran.code, ran.out) == (0, "")
    pictures = sorted((tmp_path / "png").iterdir())
    drawn = sorted((tmp_path / "plots").iterdir())
    assert [file.stem for file in pictures] == [file.stem for file in drawn]
    for picture, plot in zip(pictures, drawn, strict=True):
        head = picture.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        size = re.search(r'width="(\d+)" height="(\d+)"', plot.read_text(encoding="utf-8"))
        assert size is not None
        assert struct.unpack(">II", head[16:24]) == tuple(2 * int(side) for side in size.groups())


def test_what_png_needs_is_said_before_anything_is_computed(
    shell: Shell, live: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(ticks=3)
    ran = shell("report", "tiny", "--plots-as", "png")
    assert (ran.code, "add --plots DIR" in ran.err) == (2, True)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    ran = shell("report", "tiny", "--plots", str(tmp_path / "png"), "--plots-as", "png")
    assert ran.code == 1
    assert "pip install 'anabranch[png]'" in ran.err
    assert not (tmp_path / "png").exists()


def test_what_others_wrote_is_escaped(shell: Shell, live: Begin) -> None:
    live(ticks=5)
    store = shell.store()
    story = tell(store, "tiny", 5.0)
    store.close()
    evil = "<img src=x onerror=alert(1)>"
    arms = tuple(replace(arm, removed_reason=evil) for arm in story.view.arms)
    view = replace(story.view, model=evil, name=evil, unit=evil, arms=arms)
    text = write_page(replace(story, view=view, document={"model": evil}, versions={evil: evil}))
    assert "<img" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") >= 6


def test_a_place_that_cannot_be_written_is_said(shell: Shell, live: Begin, tmp_path: Path) -> None:
    live(ticks=3)
    (tmp_path / "file").write_text("")
    ran = shell("report", "tiny", "--html", str(tmp_path / "file" / "r.html"))
    assert ran.code == 1
    assert "check --html" in ran.err


@pytest.mark.peers
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_no_overflow_and_reports_nothing(
    page: str, tmp_path: Path, width: int, scheme: str
) -> None:
    """In headless Chromium, which must be installed: `apt-get install chromium`."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "install Chromium: apt-get install chromium"
    quoted = json.dumps(page).replace("</", "<\\/")
    # A window is never narrower than 500: the page goes into a frame, and a script beside it measures.
    probe = (
        f'<body><iframe id=f style="width:{width}px;height:2000px;border:0"></iframe><script>'
        f"const f=document.getElementById('f');f.onload=()=>{{const d=f.contentDocument.documentElement;"
        "const p=f.contentWindow.getComputedStyle(f.contentDocument.body).backgroundColor;"
        "document.title=d.scrollWidth+' '+d.clientWidth+' '+p;};"
        f"f.srcdoc={quoted};</script></body>"
    )
    (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
    ran = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "probe.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(\d+) (\d+) (rgb[^<]*)</title>", ran.stdout)
    assert found is not None, ran.stdout[:2000]
    needed, there = int(found[1]), int(found[2])
    assert found[3] == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")
    assert width - 20 <= there <= width  # a scrollbar may take some
    assert needed <= there
    assert not [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
