"""Turn the lines of `encoder.py` into the tables of docs/variants.md, between the marks of the device.

    python bench/variants/encoder_tables.py bench/results/encoder-*.jsonl [--write docs/variants.md] [--marks NAME]

Several files of one device are joined: one may hold what the variants are, another how fast, or further variants beside
peers of the first, of which the first file's lines count. Without `--write` the tables are printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--marks", default="encoder on {device}", help="name of the marks in the page")
    options = parser.parse_args()
    files = [[json.loads(line) for line in path.read_text().splitlines()] for path in options.lines]
    for device in sorted({_machine(lines)["device"] for lines in files}):
        own = [lines for lines in files if _machine(lines)["device"] == device]
        text = "\n".join(_section(own))
        if options.write is None:
            print(text)
        else:
            _replace(options.write, options.marks.format(device=device), text)


def _replace(page: Path, marks: str, text: str) -> None:
    begin, end = f"<!-- {marks}: begin -->", f"<!-- {marks}: end -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} lacks the marks {begin} and {end}: add them where the tables belong")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _machine(lines: list[Line]) -> Line:
    return next(line for line in lines if line["kind"] == "machine")


def _of(files: list[list[Line]], kind: str) -> list[Line]:
    found: dict[tuple[Any, ...], Line] = {}
    for line in (line for lines in files for line in lines if line["kind"] == kind):
        found.setdefault(tuple(line.get(key) for key in ("variant", "rows", "tokens")), line)
    return list(found.values())


def _section(files: list[list[Line]]) -> list[str]:
    parts = [_described(_machine(lines)) for lines in files]
    variants, latencies = _of(files, "variant"), _of(files, "latency")
    rates = _of(files, "rates")
    if rates:
        shown = ", ".join(
            f"{name} {value / 1e12:.0f}" for name, value in rates[0].items() if name not in ("kind", "bytes")
        )
        parts.append(f"Measured ceilings: {shown} TFLOP/s, {rates[0]['bytes'] / 1e12:.2f} TB/s.")
    rows = [line for part in parts for line in (part, "")]
    if variants:
        rows += [*_quality(variants), ""]
    for shape in sorted({(line["rows"], line["tokens"]) for line in latencies}, key=lambda s: (s[1], s[0])):
        rows += [*_speed(latencies, *shape), ""]
    return rows[:-1]


def _described(facts: Line) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    where = facts.get("gpu") or f"{facts['cpu']}, {facts['cores']} cores"
    return f"{where}; Python {facts['python']}, {versions}; commit {facts['commit']}, {facts['utc']}."


def _quality(variants: list[Line]) -> list[str]:
    rows = [
        "| variant | MB | peak MB | accuracy [95 %] | agreement with FP32 | cosine |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for line in variants:
        task, parity = line["task"], line["parity"]
        peak = "" if line["peak_mb"] is None else f"{line['peak_mb']:.0f}"
        rows.append(
            f"| `{line['variant']}` | {line['size_mb']} | {peak} | {task['value']:.2%} "
            f"[{task['low']:.2%}, {task['high']:.2%}] | {parity['top1_agreement']:.2%} | {parity['cosine_mean']:.5f} |"
        )
    return rows


def _speed(latencies: list[Line], rows: int, tokens: int) -> list[str]:
    chosen = [line for line in latencies if (line["rows"], line["tokens"]) == (rows, tokens)]
    peers = [key for key in chosen[0] if key.startswith("times_")]
    floors = {
        key: head
        for key, head in (("over_floor", "times the floor"), ("over_products", "times its products"))
        if any(key in line for line in chosen)
    }
    heads = [*(f"times {peer.removeprefix('times_')}" for peer in peers), *floors.values()]
    table = [
        f"**{rows} × {tokens} tokens**",
        "",
        "| variant | p50 ms | p99 ms | rows/s | " + " | ".join(heads) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(heads),
    ]
    for line in sorted(chosen, key=lambda line: float(line["p50_ms"])):
        values = [f"{line[peer]:.2f}" for peer in peers]
        values += [f"{line[key]:.1f}" if key in line else "" for key in floors]
        table.append(
            f"| `{line['variant']}` | {line['p50_ms']:.3g} | {line['p99_ms']:.3g} | {line['rows_per_s']:.0f} | "
            + " | ".join(values)
            + " |"
        )
    return table


if __name__ == "__main__":
    main()
