"""Turn the lines of `llm.py` into the tables of docs/llm.md, those of `llm_gpu.py` into docs/variants.md, between marks.

    python bench/variants/llm_tables.py bench/results/llm-cpu.jsonl [--write docs/llm.md]
    python bench/variants/llm_tables.py bench/results/llm-h200.jsonl [MORE] [--write docs/variants.md]

Several files of one device are joined: what a later one says of a variant replaces what an earlier one says. Without
`--write` the tables are printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

# By device: the marks, the reference and the obvious alternative.
_MARKS = {"cpu": "tables", "cuda": "llm on cuda"}
_REFERENCES = {"cpu": "onnx-fp32", "cuda": "torch-fp32-cuda"}
_EAGER = {"cpu": "torch eager fp32", "cuda": "torch-fp16-cuda"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    files = [[json.loads(line) for line in path.read_text().splitlines()] for path in options.lines]
    lines = _joined(files)
    device = _of(lines, "machine")[0].get("device", "cpu")
    machines = [part for facts in _of(lines, "machine") for part in (_machine(facts), "")]
    text = "\n".join([*machines, *_quality(lines), "", *_speed(lines, device)])
    if options.write is None:
        print(text)
        return
    begin, end = (f"<!-- {_MARKS[device]}: {side} -->" for side in ("begin", "end"))
    page = options.write.read_text()
    if begin not in page or end not in page:
        raise SystemExit(
            f"{options.write} has no marks {begin} and {end}: add them where the tables shall be"
        )
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    options.write.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def _joined(files: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Lines of several runs; of a variant, its last ones where it was timed, by the order of their first."""
    timed = {line["variant"]: number for number, lines in enumerate(files) for line in _of(lines, "speed")}
    joined = [
        line
        for number, lines in enumerate(files)
        for line in lines
        if timed.get(line.get("variant"), number) == number
    ]
    order = list(dict.fromkeys(line["variant"] for lines in files for line in lines if "variant" in line))
    return sorted(joined, key=lambda line: order.index(line["variant"]) if "variant" in line else -1)


def _machine(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['gpu'] + ', ' if 'gpu' in facts else ''}{facts['cpu']}, {facts['cores']} cores, load {facts['load']} at the start; {versions}; "
        f"commit {facts['commit']}, {facts['utc']}."
    )


def _quality(lines: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| variant | MB | peak MB | cache MB | perplexity, times FP32 | after 600 tokens | agreement | KL, nats |",
        "|---|---:|---:|---:|---|---|---:|---:|",
    ]
    for line in _of(lines, "variant"):
        fidelity = line["fidelity"]
        rows.append(
            f"| `{line['variant']}` | {line['size_mb']} | {line['peak_mb']:.0f} | {line['cache_mb']} | "
            f"{_interval(line['perplexity'])} | {_interval(line['tail'])} | {fidelity['agreement']:.3f} | "
            f"{fidelity['kl_mean']:.4f} |"
        )
    return rows


def _interval(perplexity: dict[str, Any]) -> str:
    if perplexity["ratio"] == perplexity["ratio_high"] == 1.0:
        return f"1 ({perplexity['value']:.2f})"
    return f"{perplexity['ratio']:.3f} [{perplexity['ratio_low']:.3f}, {perplexity['ratio_high']:.3f}]"


def _speed(lines: list[dict[str, Any]], device: str) -> list[str]:
    together: dict[str, dict[int, float]] = {}
    for line in _of(lines, "throughput"):
        together.setdefault(line["variant"], {})[line["generations"]] = line["tokens_per_s"]
    streams = sorted({number for rates in together.values() for number in rates})
    floors = any("over_floor" in line for line in _of(lines, "speed"))
    reference, eager = _REFERENCES[device], _EAGER[device]
    heads = [
        "variant",
        "prompt",
        "first token ms",
        "ms a token",
        f"times {reference}: first, a token",
        f"times {eager}",
        *(["times the floor"] if floors else []),
        *(f"{number} at once, tokens/s" for number in streams),
    ]
    rows = [_row(heads), "|---|---:|---:|---:|---|---|" + "---:|" * (len(heads) - 6)]
    for line in _of(lines, "speed"):
        rates = together[line["variant"]]
        cells = [f"`{line['variant']}`", line["prompt"], line["ttft_p50_ms"], line["tpot_p50_ms"]]
        cells += [_times(line, reference), _times(line, eager)]
        cells += [line["over_floor"]] if floors else []
        rows.append(_row([*cells, *(rates[number] for number in streams)]))
    return rows


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _times(line: dict[str, Any], peer: str) -> str:
    return f"{line[f'ttft_times_{peer}']:.2f}, {line[f'tpot_times_{peer}']:.2f}"


if __name__ == "__main__":
    main()
