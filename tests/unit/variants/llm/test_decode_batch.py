"""Answers that share the decoder's steps say what they say alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anabranch.variants.errors import VariantError, VariantRunError
from anabranch.variants.llm.decode_batch import DecodeBatch, Member
from anabranch.variants.llm.generation import Finish
from anabranch.variants.llm.generator import Generator, load_generator
from anabranch.variants.llm.sampling import Sampling
from tests.unit.variants.llm.conftest import BUILT

# Prompts shorter and longer than a chunk, answers of several lengths: they come and go at different tokens.
LENGTHS = ((3, 20), (70, 7), (9, 31), (150, 12), (40, 1), (5, 25), (64, 16))


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(7)
    return [[int(token) for token in rng.integers(1, 320, length)] for length, _ in LENGTHS]


@pytest.fixture(scope="module", params=BUILT)
def generator(request: pytest.FixtureRequest, tiny_root: Path) -> Generator:
    return load_generator(tiny_root / "tiny" / request.param)


@pytest.fixture(scope="module")
def plain(tiny_root: Path) -> Generator:
    return load_generator(tiny_root / "tiny" / "onnx-fp32")


class Ticks:
    """A clock that goes on by one second a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def batch_of(generator: Generator, slots: int) -> DecodeBatch:
    batch = generator.new_batch(slots, Ticks())
    assert batch is not None
    return batch


def member(generator: Generator, prompt: Sequence[int], most: int, **sampling: Any) -> Member:
    asked = Sampling(max_tokens=most, **sampling)
    return Member(generator.answering_tokens(prompt, asked, stops=frozenset()), lambda: False)


def alone(generator: Generator, prompt: Sequence[int], most: int, **sampling: Any) -> list[int | None]:
    asked = Sampling(max_tokens=most, **sampling)
    answering = generator.answering_tokens(prompt, asked, stops=frozenset())
    return [token.id for token in generator.events(answering)]


def drive(batch: DecodeBatch, waiting: list[Member]) -> dict[Member, list[int | None]]:
    """Run until all have ended; whoever waits joins as soon as a slot is free."""
    said: dict[Member, list[int | None]] = {each: [] for each in waiting}
    waiting = list(waiting)
    while waiting or batch.size:
        while waiting and batch.size < batch.slots:
            batch.join(waiting.pop(0))
        for step in batch.advance():
            assert step.error is None
            assert step.token is not None
            said[step.member].append(step.token.id)
    return said


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_tokens_are_those_of_answers_that_are_alone(generator: Generator, slots: int) -> None:
    members = [member(generator, prompt, most) for prompt, (_, most) in zip(prompts(), LENGTHS, strict=True)]
    said = drive(batch_of(generator, slots), members)
    for each, prompt, (_, most) in zip(members, prompts(), LENGTHS, strict=True):
        assert said[each] == alone(generator, prompt, most)


def test_draws_are_those_of_answers_that_are_alone(plain: Generator) -> None:
    members = [member(plain, prompt, 20, temperature=1.0, seed=seed) for seed, prompt in enumerate(prompts())]
    said = drive(batch_of(plain, 4), members)
    for seed, (each, prompt) in enumerate(zip(members, prompts(), strict=True)):
        assert said[each] == alone(plain, prompt, 20, temperature=1.0, seed=seed)


def test_a_manifest_says_whether_answers_share_steps(generator: Generator) -> None:
    assert generator.generation.shares_steps


def test_a_cancelled_answer_frees_its_slot_at_the_next_token_and_its_neighbours_go_on(
    plain: Generator,
) -> None:
    batch = batch_of(plain, 3)
    unwanted: set[int] = set()
    answers = [
        Member(
            plain.answering_tokens(prompt, Sampling(max_tokens=30), stops=frozenset()),
            lambda number=number: number in unwanted,  # type: ignore[misc]  # the default binds it now
        )
        for number, prompt in enumerate(prompts()[:3])
    ]
    said: dict[Member, list[int | None]] = {each: [] for each in answers}
    for each in answers:
        batch.join(each)
    for _ in range(8):
        for step in batch.advance():
            said[step.member].append(step.token.id if step.token else None)
    unwanted.add(0)
    (ended,) = [step for step in batch.advance() if step.token is not None and step.token.finish is not None]
    assert ended.member is answers[0]
    assert ended.token is not None
    assert ended.token.finish is Finish.CANCELLED
    assert batch.size == 2
    later = member(plain, prompts()[5], 12)
    batch.join(later)
    said[later] = []
    while batch.size:
        for step in batch.advance():
            said[step.member].append(step.token.id if step.token else None)
    assert said[later] == alone(plain, prompts()[5], 12)
    # The round of the cancellation was not noted.
    for each, prompt in list(zip(answers, prompts(), strict=False))[1:]:
        assert said[each][-10:] == alone(plain, prompt, 30)[-10:]


def test_a_cancelled_prompt_is_not_read_to_its_end(plain: Generator) -> None:
    batch = batch_of(plain, 1)
    unwanted: list[bool] = []
    reading = Member(
        plain.answering_tokens([1] * 400, Sampling(max_tokens=4), stops=frozenset()), lambda: bool(unwanted)
    )
    batch.join(reading)
    assert batch.advance() == []
    unwanted.append(True)
    (step,) = batch.advance()
    assert step.token is not None
    assert step.token.finish is Finish.CANCELLED
    assert batch.size == 0


def test_a_long_prompt_holds_the_others_up_by_a_chunk_a_token(plain: Generator) -> None:
    batch = batch_of(plain, 2)
    short, long = member(plain, [5, 80], 40), member(plain, [7] * 300, 2)
    batch.join(short)
    batch.advance()
    batch.join(long)
    for _ in range(4):
        assert [step.member for step in batch.advance()] == [short]
    assert {step.member for step in batch.advance()} == {short, long}


def test_shares_of_time_add_up_to_the_time_of_the_steps(plain: Generator) -> None:
    clock = Ticks()
    batch = plain.new_batch(4, clock)
    assert batch is not None
    members = [member(plain, prompt, 10) for prompt in prompts()[:6]]
    drive(batch, members)
    # Every step looks at the clock twice, one second apart.
    assert sum(each.engine_s for each in members) == pytest.approx(clock.now / 2)
    assert max(each.shared_by for each in members) > 1


def test_no_more_join_than_there_are_slots(plain: Generator) -> None:
    batch = batch_of(plain, 1)
    batch.join(member(plain, [5], 2))
    with pytest.raises(VariantError, match="1 answers are under way"):
        batch.join(member(plain, [5], 2))
    with pytest.raises(VariantError, match="slots is 0, must be at least 1"):
        plain.new_batch(0, Ticks())


def test_a_step_that_fails_ends_those_who_shared_it_and_nobody_who_comes_later(
    plain: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(plain, 3)
    first, second = member(plain, [5, 80], 9), member(plain, [6, 81], 9)
    for each in (first, second):
        batch.join(each)
    for _ in range(3):
        batch.advance()
    session = plain._session

    def broken(_batch: Any, _tokens: Sequence[int]) -> NDArray[np.float32]:
        raise VariantRunError("the card is gone")

    with monkeypatch.context() as patch:
        patch.setattr(session, "step_batch", broken)
        failed = batch.advance()
    assert {step.member for step in failed if step.error} == {first, second}
    assert batch.size == 0
    later = member(plain, [5, 80], 9)
    assert drive(batch, [later])[later] == alone(plain, [5, 80], 9)


def test_logits_that_are_no_numbers_end_one_answer_and_not_its_neighbour(
    plain: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(plain, 2)
    sound, broken = member(plain, [5, 80], 9), member(plain, [6, 81], 9)
    for each in (sound, broken):
        batch.join(each)
    said = [
        step.token.id for step in (*batch.advance(), *batch.advance()) if step.token and step.member is sound
    ]
    session: Any = plain._session
    step_batch = session.step_batch

    def half_broken(caches: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits = np.array(step_batch(caches, tokens))
        logits[1] = np.nan
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(session, "step_batch", half_broken)
        steps = batch.advance()
    [failed] = [step for step in steps if step.error]
    assert failed.member is broken
    assert isinstance(failed.error, VariantRunError)
    assert "no numbers" in str(failed.error)
    said += [step.token.id for step in steps if step.token]
    while batch.size:
        said += [step.token.id for step in batch.advance() if step.token]
    assert said == alone(plain, [5, 80], 9)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_answer_alone_ends_with_an_error_too(
    plain: Generator, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    step = plain._session.step
    monkeypatch.setattr(plain._session, "step", lambda *asked: step(*asked) * np.float32(np.inf))
    with pytest.raises(VariantRunError, match="no numbers"):
        alone(plain, [5, 80], 3, temperature=temperature)
