"""Streams at once on this machine: answers that share the decoder's steps, against one thread an answer.

    python bench/variants/llm_streams.py [--models DIR] [--variants a,b] [--streams 1,4,8] [--rounds 3] [--output FILE]

Both ways take turns inside every round, so that a ratio compares times that lie seconds apart. One thread an answer is
what served before: as many answers at once as there are cores, the others wait. A batch has one thread of its own and the
same cores for its products. Prints JSON lines: the processor's time for a token of a step that so many texts share, which
other programs on the machine change least; then tokens a second, time to the first token, time per further token, and
whether every token is the same. `--rounds 0` leaves the streams out.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from llm import (  # type: ignore[import-not-found]  # it lies beside this script
    machine,
    tokens_of_the_text,
)

from anabranch.variants.llm.artifacts import GRAPH
from anabranch.variants.llm.build import build_language_model
from anabranch.variants.llm.decode_batch import DecodeBatch, Member
from anabranch.variants.llm.decoder_session import DecoderSession
from anabranch.variants.llm.generation import Answering
from anabranch.variants.llm.generator import Generator, load_generator
from anabranch.variants.llm.sampling import Sampling
from anabranch.variants.llm.smollm2 import MODEL, smollm2_source

PROMPT, ANSWER = 64, 48
SLOTS = 8
_STEPS, _STEP_ROUNDS = 4, 3


@dataclass(slots=True)
class Told:
    """One answer: its tokens and when each came, in seconds from the start of the round."""

    tokens: list[int | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(".state/bench-models"))
    parser.add_argument("--variants", default="onnx-fp32,onnx-int8-weight-only,onnx-int4-weight-only")
    parser.add_argument("--streams", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [{"kind": "machine", **machine()}]
    print(json.dumps(lines[0]), flush=True)
    names = options.variants.split(",")
    build_language_model(
        smollm2_source(), names, options.models, progress=lambda line: print(line, file=sys.stderr)
    )
    text = tokens_of_the_text()
    cores = len(os.sched_getaffinity(0))
    for name in names:
        folder = options.models / MODEL / name
        # As served: one thread a call where each answer has a thread, all cores where they share calls.
        single, shared = (load_generator(folder, threads=threads) for threads in (1, cores))
        lines.append({"kind": "step", "variant": name, "threads": 1, **step_costs(folder)})
        print(json.dumps(lines[-1]), flush=True)
        for streams in map(int, options.streams.split(",")) if options.rounds else ():
            line = compare(name, single, shared, text, streams, cores, options.rounds)
            lines.append(line)
            print(json.dumps(line), flush=True)
    if options.output:
        options.output.write_text("".join(json.dumps(line) + "\n" for line in lines))


def step_costs(folder: Path) -> dict[str, float]:
    """Milliseconds of the processor for a token of a step, by how many texts share it; one thread."""
    session = DecoderSession(folder / GRAPH)
    costs: dict[str, list[float]] = {}
    for number in range(_STEP_ROUNDS + 1):
        for texts in (1, 2, 4, 8):
            batch = session.new_batch(None, texts, 2 * PROMPT)
            for text in range(texts):
                cache = session.new_cache(None, 2 * PROMPT)
                session.step(cache, list(range(1 + text, 1 + text + PROMPT // 4)))
                batch.admit(cache)
            start = time.process_time()
            for _ in range(_STEPS):
                session.step_batch(batch, [9] * texts)
            if number:
                spent = 1e3 * (time.process_time() - start) / (_STEPS * texts)
                costs.setdefault(f"cpu_ms_per_token_{texts}", []).append(spent)
    return {name: round(statistics.median(found), 2) for name, found in costs.items()}


def compare(
    name: str,
    single: Generator,
    shared: Generator,
    text: Sequence[int],
    streams: int,
    cores: int,
    rounds: int,
) -> dict[str, object]:
    """Both ways in turns; the first round is for the caches of the processor."""
    before: list[list[Told]] = []
    after: list[list[Told]] = []
    cpu_s: tuple[list[float], list[float]] = [], []
    for number in range(rounds + 1):
        prompts = [
            text[start : start + PROMPT] for start in range(number * 16, number * 16 + 97 * streams, 97)
        ]
        clocks = [time.process_time()]
        found = [one_thread_each(single, prompts, cores)]
        clocks.append(time.process_time())
        found.append(one_batch(shared, prompts))
        clocks.append(time.process_time())
        if number:
            for spent, start, end in zip(cpu_s, clocks, clocks[1:], strict=False):
                spent.append(end - start)
            before.append(found[0])
            after.append(found[1])
    same = [
        ours.tokens == theirs.tokens
        for old, new in zip(before, after, strict=True)
        for ours, theirs in zip(old, new, strict=True)
    ]
    made = sum(len(each.tokens) for told in after for each in told)
    rates = [[_rate(told) for told in way] for way in (before, after)]
    return {
        "kind": "streams",
        "variant": name,
        "streams": streams,
        "tokens_per_s_before": round(statistics.median(rates[0]), 1),
        "tokens_per_s": round(statistics.median(rates[1]), 1),
        "times": round(statistics.median(new / old for old, new in zip(*rates, strict=True)), 2),
        "ttft_p50_ms_before": _ttft(before),
        "ttft_p50_ms": _ttft(after),
        "tpot_p50_ms_before": _tpot(before),
        "tpot_p50_ms": _tpot(after),
        # What other programs on the machine change least.
        "cpu_ms_per_token_before": round(1e3 * sum(cpu_s[0]) / made, 2),
        "cpu_ms_per_token": round(1e3 * sum(cpu_s[1]) / made, 2),
        "answers": len(same),
        "same_tokens": sum(same),
    }


def one_thread_each(generator: Generator, prompts: list[Sequence[int]], cores: int) -> list[Told]:
    """As many answers at once as there are cores, the others wait."""
    told = [Told() for _ in prompts]
    waiting: SimpleQueue[int] = SimpleQueue()
    for number in range(len(prompts)):
        waiting.put(number)
    start = time.perf_counter()

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except Empty:
                return
            for token in generator.events(_asked(generator, prompts[number], ANSWER)):
                told[number].tokens.append(token.id)
                told[number].times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=work) for _ in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def one_batch(generator: Generator, prompts: list[Sequence[int]]) -> list[Told]:
    """All of them share the decoder's steps."""
    batch = generator.new_batch(SLOTS, time.perf_counter)
    assert batch is not None, "the variant was built with a batch axis"
    return drive(generator, batch, prompts, ANSWER)


def drive(generator: Generator, batch: DecodeBatch, prompts: list[Sequence[int]], answer: int) -> list[Told]:
    """Answers of that many tokens to all prompts, which join at once."""
    members = [Member(_asked(generator, prompt, answer), lambda: False) for prompt in prompts]
    told = {member: Told() for member in members}
    start = time.perf_counter()
    for member in members:
        batch.join(member)
    while batch.size:
        for step in batch.advance():
            if step.error is not None:
                raise step.error
            told[step.member].tokens.append(step.token.id if step.token else None)
            told[step.member].times.append(time.perf_counter() - start)
    return [told[member] for member in members]


def _asked(generator: Generator, prompt: Sequence[int], answer: int) -> Answering:
    return generator.answering_tokens(prompt, Sampling(max_tokens=answer), stops=frozenset())


def _rate(told: list[Told]) -> float:
    return sum(len(each.tokens) for each in told) / max(each.times[-1] for each in told)


def _ttft(rounds: list[list[Told]]) -> float:
    return round(1e3 * statistics.median(each.times[0] for told in rounds for each in told), 1)


def _tpot(rounds: list[list[Told]]) -> float:
    paces = [(each.times[-1] - each.times[0]) / (len(each.times) - 1) for told in rounds for each in told]
    return round(1e3 * statistics.median(paces), 2)


if __name__ == "__main__":
    main()
