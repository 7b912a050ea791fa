import threading
from pathlib import Path

import numpy as np
import pytest

from anabranch.variants.errors import ManifestError, VariantInputError
from anabranch.variants.llm.generation import Finish
from anabranch.variants.llm.generator import Generator, load_generator
from anabranch.variants.llm.requests import Prompt
from anabranch.variants.llm.sampling import Sampling
from anabranch.variants.tensors import Request


@pytest.fixture(scope="module")
def generator(tiny_root: Path) -> Generator:
    return load_generator(tiny_root / "tiny" / "onnx-fp32")


@pytest.fixture(scope="module")
def windowed(tiny_root: Path) -> Generator:
    return load_generator(tiny_root / "tiny" / "onnx-kv-sinks")


def asked(text: str, sampling: str = "") -> Request:
    request = {"text_input": np.array([text.encode()], np.object_)}
    if sampling:
        request["sampling_parameters"] = np.array([sampling.encode()], np.object_)
    return request


def prompt(tokens: list[int], **sampling: float) -> Prompt:
    return Prompt(tokens=tuple(tokens), sampling=Sampling(**sampling))  # type: ignore[arg-type]  # numbers by name


def test_events_joined_are_the_whole_answer(generator: Generator) -> None:
    request = asked("the other thing", '{"max_tokens": 12}')
    (whole,) = generator.infer([request])
    events = list(generator.generate(generator.prompt(generator.read(request))))
    assert "".join(event.text for event in events).encode() == whole["text_output"][0]
    assert [token for event in events for token in event.tokens] == whole["token_ids"].tolist()
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
    assert whole["finish_reason"][0].decode() == events[-1].finish
    assert whole["num_input_tokens"].tolist() == [4]


def test_greedy_tokens_are_the_likeliest_of_the_whole_text_read_at_once(generator: Generator) -> None:
    start = [5, 80, 7, 201, 33]
    answer = [event.tokens[0] for event in generator.generate(prompt(start, max_tokens=20)) if event.tokens]
    logits = np.concatenate(list(generator.logits([*start, *answer], len(start))))
    assert logits.argmax(axis=1).tolist() == answer


def test_a_windowed_variant_answers_as_the_whole_one_while_nothing_is_forgotten(
    generator: Generator, windowed: Generator
) -> None:
    start = list(range(1, 100))
    answers = [
        [event.tokens for event in variant.generate(prompt(start, max_tokens=10))]
        for variant in (generator, windowed)
    ]
    assert answers[0] == answers[1]


def test_a_seed_repeats_an_answer_and_another_seed_makes_another(generator: Generator) -> None:
    def answer(seed: int) -> list[tuple[int, ...]]:
        asked_for = prompt([5, 80], max_tokens=16, temperature=1.5, seed=seed)
        return [event.tokens for event in generator.generate(asked_for)]

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_an_answer_ends_at_its_length(generator: Generator) -> None:
    events = list(generator.generate(prompt([5, 80], max_tokens=3)))
    assert [event.finish for event in events] == [None, None, Finish.LENGTH]


def test_an_answer_ends_at_a_stop_token_which_is_not_part_of_it(generator: Generator) -> None:
    (first,) = (event.tokens[0] for event in generator.generate(prompt([5, 80], max_tokens=1)))
    events = list(
        generator.events(
            generator.answering_tokens([5, 80], Sampling(max_tokens=9), stops=frozenset({first}))
        )
    )
    assert [(event.id, event.finish) for event in events] == [(None, Finish.STOP)]


def test_a_cancelled_answer_ends_at_the_next_token(generator: Generator) -> None:
    cancelled = threading.Event()
    events = []
    for event in generator.generate(prompt([5, 80], max_tokens=100), is_cancelled=cancelled.is_set):
        events.append(event)
        if len(events) == 3:
            cancelled.set()
    assert events[-1].finish is Finish.CANCELLED
    assert len(events) == 4


def test_a_long_prompt_is_not_read_to_its_end_once_it_is_cancelled(generator: Generator) -> None:
    asked_times = 0

    def is_cancelled() -> bool:
        nonlocal asked_times
        asked_times += 1
        return asked_times > 1

    (event,) = generator.generate(prompt([1] * 400, max_tokens=4), is_cancelled=is_cancelled)
    assert event.finish is Finish.CANCELLED
    assert asked_times == 2


def test_answers_of_several_threads_do_not_mix(generator: Generator) -> None:
    starts = [[seed, 2 * seed, 3 * seed] for seed in range(1, 9)]
    alone = [[e.tokens for e in generator.generate(prompt(start, max_tokens=24))] for start in starts]
    together: list[list[tuple[int, ...]]] = [[] for _ in starts]

    def run(index: int) -> None:
        together[index] = [e.tokens for e in generator.generate(prompt(starts[index], max_tokens=24))]

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_tokens_may_be_given_instead_of_text(generator: Generator) -> None:
    tokens = np.array([[304, 316, 307, 71]], np.int64)
    given: Request = {"input_ids": tokens, "stream": np.array([True])}
    read = generator.read(given)
    assert generator.prompt(read) == generator.prompt(generator.read(asked("the other thing")))
    assert read.streams is True
    assert generator.check_inputs(given) == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asked(""), "the prompt is empty, must have at least 1 token"),
        (asked("a" * 16_385), "text_input has 16385 bytes, no prompt of this model has more than 16384"),
        (asked("a", '{"max_tokens": 0}'), "max_tokens is 0, must be at least 1"),
        ({"text_input": np.array([b"\xff"], np.object_)}, "is not UTF-8"),
        ({"input_ids": np.array([[320]], np.int64)}, r"ids from 320 to 320, must be in 0\.\.319"),
        ({"prompt": np.array([b"a"], np.object_)}, "inputs are"),
    ],
)
def test_what_the_variant_cannot_take_is_refused(
    generator: Generator, request_: Request, message: str
) -> None:
    with pytest.raises(VariantInputError, match=message):
        generator.check_inputs(request_)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asked("a b " * 200), "the prompt has 800 tokens, must have less than 512"),
        (asked("a", '{"max_tokens": 512}'), "max_tokens is 512, the context leaves room for 511"),
    ],
)
def test_what_does_not_fit_the_context_is_refused_once_it_is_in_tokens(
    generator: Generator, request_: Request, message: str
) -> None:
    assert generator.check_inputs(request_) == 1
    with pytest.raises(VariantInputError, match=message):
        generator.prompt(generator.read(request_))


def test_without_parameters_an_answer_is_no_longer_than_the_context_allows(generator: Generator) -> None:
    assert generator.prompt(generator.read(asked("a b " * 120))).sampling.max_tokens == 32


def test_a_loaded_variant_can_be_warmed(generator: Generator, windowed: Generator) -> None:
    generator.warm()
    windowed.warm()


def test_a_folder_whose_weights_were_changed_is_refused(tiny_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "variant"
    folder.mkdir()
    for file in (tiny_root / "tiny" / "onnx-fp16").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(ManifestError, match=r"weights\.bin has sha256"):
        load_generator(folder)
