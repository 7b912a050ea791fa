"""The tables of docs/performance.md: medians with their range over the repetitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.dataplane import cost, encoder, growth, split, tiny, weight_change
from bench.dataplane.results import Results


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table of peers.

    Attributes:
        title: Its head.
        figure: Which of the generator's figures.
        digits: Shown after the point.
    """

    title: str
    figure: str
    digits: int = 1


_CPU = Column("CPU µs a request", "cpu_us")
_RATE = Column("requests/s", "rps", 0)
_P50 = Column("p50 ms", "p50_ms", 3)
_P99 = Column("p99 ms", "p99_ms", 2)
_LAG = Column("generator late, p99 ms", "lag_p99_ms", 2)
_MEMORY = Column("MiB", "rss_mib", 0)


def split_tables(results: Results) -> str:
    """One table a load; the closed loops give CPU and p50, the open loops the tail."""
    parts = []
    for case in split.CLOSED:
        parts.append(f"{_capital(case)} in flight (connections × streams), closed loop:")
        parts.append(peers_table(results, "split", case, (_CPU, _RATE, _P50, _MEMORY), against="Envoy"))
    for case in split.OPEN:
        parts.append(f"{_capital(case)}, open loop, latency from the time a request was due:")
        parts.append(peers_table(results, "split", case, (_CPU, _P50, _P99, _LAG), against="Envoy"))
    return "\n\n".join(parts)


def tiny_tables(results: Results) -> str:
    """With 32 requests in flight, and alone."""
    parts = []
    for case in tiny.CASES:
        parts.append(f"{_capital(case)}:")
        parts.append(peers_table(results, "tiny", case, (_CPU, _RATE, _P50, _MEMORY), against="MLServer"))
    return "\n\n".join(parts)


def encoder_table(results: Results) -> str:
    """Saturation, and goodput and tail at shares of it."""
    shares = [f"{share:.0%}" for share in encoder.SHARES]
    peers = results.peers("encoder", encoder.SATURATION)
    rows = []
    for peer in peers:
        if peer == encoder.ALONE:
            continue
        cells = [_cell(results, "encoder", encoder.SATURATION, peer, _RATE)]
        for share in shares:
            cells.append(_cell(results, "encoder", share, peer, Column("", "good_per_s")))
            cells.append(_cell(results, "encoder", share, peer, _P99))
        rows.append([peer, *cells])
    head = ["server", "saturation, requests/s"]
    head += [title for share in shares for title in (f"goodput/s at {share}", f"p99 ms at {share}")]
    alone = results.of("encoder", encoder.SATURATION, encoder.ALONE)
    limits = [
        f"the model alone, batch {key.rpartition('_')[2]}: {line[key]:.0f} rows/s"
        for line in alone[:1]
        for key in line
        if key.startswith("rows_per_s")
    ]
    text = f"The limit, without any server: {'; '.join(limits)}." if limits else ""
    return "\n\n".join(part for part in (markdown(head, rows), text) if part)


def cost_table(results: Results) -> str:
    """With and without, side by side."""
    rows = []
    for case in cost.CASES:
        ratio = results.ratio("cost", case, cost.WITH, cost.WITHOUT, "cpu_us")
        rows.append(
            [
                case,
                *(
                    _cell(results, "cost", case, peer, column)
                    for column in (_CPU, _P50)
                    for peer in (cost.WITHOUT, cost.WITH)
                ),
                f"{ratio:.2f}" if ratio else "",
            ]
        )
    head = ["", "CPU µs without", "with", "p50 ms without", "with", "CPU with ÷ without"]
    return markdown(head, rows)


def weights_table(results: Results) -> str:
    """Every flip of every repetition."""
    rows = []
    for peer in results.peers("weights", weight_change.CASE):
        lines = results.of("weights", weight_change.CASE, peer)
        effects = sorted(effect for line in lines for effect in line["effect_ms"])
        failed, answered = sum(line["failed"] for line in lines), sum(line["answered"] for line in lines)
        middle = effects[len(effects) // 2]
        rows.append(
            [peer, str(len(effects)), f"{middle:.2f}", f"{effects[-1]:.2f}", f"{failed} of {answered:,}"]
        )
    return markdown(["", "flips", "median ms", "slowest ms", "requests failed"], rows)


def growth_table(results: Results) -> str:
    """Small beside large, and memory over time."""
    rows = []
    for case in growth.CASES:
        rows += [
            [peer, *(_cell(results, "growth", case, peer, column) for column in (_CPU, _RATE, _P50, _MEMORY))]
            for peer in results.peers("growth", case)
        ]
    parts = [markdown(["", _CPU.title, _RATE.title, _P50.title, _MEMORY.title], rows)]
    for peer in results.peers("growth", growth.MEMORY):
        found = results.of("growth", growth.MEMORY, peer)[-1]
        samples = found["samples"]
        parts.append(
            f"{_capital(peer)} at {found['load']['rate']:,.0f} requests/s, all processes of the server:"
        )
        parts.append(
            markdown(
                ["minute", "MiB", "answered", "failed"],
                [
                    [
                        f"{each['minute']:g}",
                        f"{each['rss_mib']:g}",
                        f"{each['answered']:,}",
                        str(each["failed"]),
                    ]
                    for each in samples
                ],
            )
        )
    return "\n\n".join(parts)


def peers_table(
    results: Results, scenario: str, case: str, columns: Sequence[Column], *, against: str
) -> str:
    """A row a peer, with the ratio of CPU and p50 to one of them."""
    rows = []
    for peer in results.peers(scenario, case):
        ratios = [results.ratio(scenario, case, peer, against, figure) for figure in ("cpu_us", "p50_ms")]
        failed = results.spread(scenario, case, peer, "failed")
        rows.append(
            [
                f"**{peer}**" if peer.startswith("Anabranch") else peer,
                *(_cell(results, scenario, case, peer, column) for column in columns),
                *(f"{ratio:.2f}" if ratio else "" for ratio in ratios),
                f"{sum(failed.values):.0f}" if failed else "",
            ]
        )
    head = ["", *(column.title for column in columns), f"CPU ÷ {against}", f"p50 ÷ {against}", "failed"]
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(results: Results, scenario: str, case: str, peer: str, column: Column) -> str:
    spread = results.spread(scenario, case, peer, column.figure)
    return spread.text(column.digits) if spread else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
