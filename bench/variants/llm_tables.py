"""Turn the lines of `llm.py` into the tables of docs/llm.md, those of `llm_gpu.py` into docs/variants.md, between marks.

    python bench/variants/llm_tables.py bench/results/llm-cpu.jsonl [--write docs/llm.md]
    python bench/variants/llm_tables.py bench/results/llm-h100.jsonl [--write docs/variants.md] [--marks NAME]

Without `--write` the tables are printed. A variant that was not timed in the run has no row.
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
    parser.add_argument("lines", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--marks", help="name of the marks in the page, by default the device's")
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.lines.read_text().splitlines()]
    device = _of(lines, "machine")[0].get("device", "cpu")
    text = "\n".join([_machine(lines), "", *_quality(lines), "", *_speed(lines, device)])
    if options.write is None:
        print(text)
        return
    begin, end = (f"<!-- {options.marks or _MARKS[device]}: {side} -->" for side in ("begin", "end"))
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


def _machine(lines: list[dict[str, Any]]) -> str:
    (facts,) = _of(lines, "machine")
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
    timed = {line["variant"] for line in _of(lines, "speed")}
    for line in _of(lines, "variant"):
        if line["variant"] not in timed:
            continue
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
