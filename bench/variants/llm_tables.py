"""Turn the lines of `llm.py` into the tables of docs/llm.md, between its marks.

    python bench/variants/llm_tables.py bench/results/llm-cpu.jsonl [--write docs/llm.md]

Without `--write` the tables are printed.
"""

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_REFERENCE, _EAGER = "onnx-fp32", "torch eager fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.lines.read_text().splitlines()]
    text = "\n".join([_machine(lines), "", *_quality(lines), "", *_speed(lines)])
    if options.write is None:
        print(text)
        return
    page = options.write.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    options.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def _machine(lines: list[dict[str, Any]]) -> str:
    (facts,) = _of(lines, "machine")
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']} at the start; {versions}; "
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


def _speed(lines: list[dict[str, Any]]) -> list[str]:
    rows = [
        "| variant | prompt | first token ms | ms a token | times FP32: first, a token | times eager torch | two at once, tokens/s |",
        "|---|---:|---:|---:|---|---|---:|",
    ]
    together = {line["variant"]: line["tokens_per_s"] for line in _of(lines, "throughput")}
    return [
        *rows,
        *(
            f"| `{line['variant']}` | {line['prompt']} | {line['ttft_p50_ms']} | {line['tpot_p50_ms']} | "
            f"{_times(line, _REFERENCE)} | {_times(line, _EAGER)} | {together[line['variant']]} |"
            for line in _of(lines, "speed")
        ),
    ]


def _times(line: dict[str, Any], peer: str) -> str:
    return f"{line[f'ttft_times_{peer}']:.2f}, {line[f'tpot_times_{peer}']:.2f}"


if __name__ == "__main__":
    main()
