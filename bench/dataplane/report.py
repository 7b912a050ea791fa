"""Write the measured part of docs/performance.md, and its plots, from result files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.dataplane.aims import AIMS
from bench.dataplane.peers import OUR_VERSION
from bench.dataplane.places import REPOSITORY
from bench.dataplane.plots import bars
from bench.dataplane.results import Results
from bench.dataplane.tables import (
    cost_table,
    encoder_table,
    growth_table,
    split_tables,
    tiny_tables,
    weights_table,
)

PAGE = REPOSITORY / "docs" / "performance.md"
PLOTS = REPOSITORY / "docs" / "performance"
BEGIN = "<!-- written by `python -m bench.dataplane report`: begin -->"
END = "<!-- written by `python -m bench.dataplane report`: end -->"
_COMMAND = "python -m bench.dataplane"


def write_page(paths: Sequence[Path], say: Callable[[str], None]) -> None:
    """Replace what is between the markers.

    Args:
        paths: Files of JSON lines.
        say: Takes one line a file written.

    Raises:
        ValueError: If the page has no markers.
    """
    results = Results(paths)
    page = PAGE.read_text()
    if BEGIN not in page or END not in page:
        raise ValueError(f"{PAGE} must have the lines {BEGIN} and {END}")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PLOTS.mkdir(exist_ok=True)
    plots = _plots(results)
    for name, text in plots.items():
        (PLOTS / name).write_text(text)
        say(f"wrote {PLOTS / name}")
    PAGE.write_text(f"{before}{BEGIN}\n\n{_text(results, paths, plots)}\n\n{END}{after}")
    say(f"wrote {PAGE}")


def _text(results: Results, paths: Sequence[Path], plots: dict[str, str]) -> str:
    parts = [_origin(results, paths), "## The aims", _aims(results)]
    sections = (
        ("## A weighted, sticky split to remote backends", "split", split_tables),
        ("## A tiny model in the serving process", "tiny", tiny_tables),
        ("## A real sentence encoder", "encoder", encoder_table),
        ("## What the experiment costs", "cost", cost_table),
        ("## A weight change to its effect", "weights", weights_table),
        ("## Growth", "growth", growth_table),
    )
    for title, scenario, table in sections:
        if results.has(scenario):
            images = [_image(name) for name in plots if name.startswith(scenario)]
            parts += [title, *images, table(results), _missing(results, scenario)]
    return "\n\n".join(part for part in parts if part)


def _image(name: str) -> str:
    return f"![{name.removesuffix('.svg').replace('-', ' ')}](performance/{name})"


def _origin(results: Results, paths: Sequence[Path]) -> str:
    line = results.lines[-1]
    machine = line["machine"]
    commits = sorted(
        {each["commit"] + ("" if each["is_clean"] else " with changes") for each in results.lines}
    )
    reps = 1 + max(each["rep"] for each in results.lines)
    versions = sorted(
        {each["version"] for each in results.lines if each.get("version", OUR_VERSION) != OUR_VERSION}
    )
    own = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    files = ", ".join(f"`{path.resolve().relative_to(REPOSITORY)}`" for path in paths)
    return "\n".join(
        [
            f"- Commit {', '.join(commits)}; {line['at'][:10]}; {reps} repetitions in turns; results in {files}.",
            f"- Machine: {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}; {own}.",
            f"- Peers: {'; '.join(versions)}.",
            f"- Commands: `{_COMMAND} install`, `{_COMMAND} run`, `{_COMMAND} report`.",
        ]
    )


def _aims(results: Results) -> str:
    rows = [aim.row(results) for aim in AIMS]
    return "\n".join(["| what | aim | found | |", "|---|---|---|---|", *rows])


def _missing(results: Results, scenario: str) -> str:
    found = results.missing(scenario)
    rows = [f"- {peer}: {reason.strip().splitlines()[-1]}" for peer, reason in found.items()]
    return "\n".join(["Not measured:", "", *rows]) if rows else ""


def _plots(results: Results) -> dict[str, str]:
    wanted = (
        (
            "split-small.svg",
            "split",
            "small 4×16",
            "CPU a request, weighted split, small, 4 connections × 16 (µs)",
        ),
        ("split-64k.svg", "split", "64 KiB 4×4", "CPU a request, weighted split, 64 KiB (µs)"),
        (
            "tiny.svg",
            "tiny",
            "32 in flight",
            "CPU a request, tiny model in process, 32 in flight (µs, logarithmic)",
        ),
    )
    found = {}
    for name, scenario, case, title in wanted:
        figures = [
            (peer, spread)
            for peer in results.peers(scenario, case)
            if (spread := results.spread(scenario, case, peer, "cpu_us"))
        ]
        if figures:
            found[name] = bars(title, figures)
    return found
