"""What clients send to a variant that generates text, and what they get; names as in Triton's vLLM backend."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from anabranch.variants.errors import VariantInputError
from anabranch.variants.llm.byte_pairs import BytePairs
from anabranch.variants.llm.chat import prompt_tokens
from anabranch.variants.llm.description import Generation
from anabranch.variants.llm.sampling import Sampling, read_sampling
from anabranch.variants.tensors import Array, Datatype, Request, Signature, TensorSpec

TEXT = "text_input"
TOKENS = "input_ids"
SAMPLING = "sampling_parameters"
STREAM = "stream"
# Running text has four; what has more a token, such as long runs of blanks, is refused by its bytes before it costs
# anybody's time.
_BYTES_A_TOKEN = 32

_PROMPTS = (
    TensorSpec(name=TEXT, datatype=Datatype.BYTES, shape=(1,)),
    TensorSpec(name=TOKENS, datatype=Datatype.INT64, shape=(1, -1)),
)
_OPTIONS = (
    TensorSpec(name=SAMPLING, datatype=Datatype.BYTES, shape=(1,)),
    TensorSpec(name=STREAM, datatype=Datatype.BOOL, shape=(1,)),
)


def _signatures() -> tuple[Signature, ...]:
    found: list[Signature] = []
    for prompt, chosen in product(_PROMPTS, product((False, True), repeat=len(_OPTIONS))):
        options = tuple(spec for spec, taken in zip(_OPTIONS, chosen, strict=True) if taken)
        name = "+".join(spec.name for spec in (prompt, *options))
        found.append(Signature(name=name, inputs=(prompt, *options)))
    return tuple(found)


SIGNATURES = _signatures()
"""A prompt as text or as tokens, with or without each option."""

OUTPUTS = (
    TensorSpec(name="text_output", datatype=Datatype.BYTES, shape=(1,)),
    TensorSpec(name="token_ids", datatype=Datatype.INT64, shape=(-1,)),
    TensorSpec(name="finish_reason", datatype=Datatype.BYTES, shape=(1,)),
    TensorSpec(name="num_input_tokens", datatype=Datatype.INT64, shape=(1,)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, read as far as that costs microseconds.

    Args:
        prompt: The user's message, or a prompt in tokens.
        sampling: How the answer is made; None where the client does not say.
        streams: Whether the client wants the tokens one by one; None where it does not say.
    """

    prompt: str | tuple[int, ...]
    sampling: Sampling | None
    streams: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request in the model's own terms.

    Args:
        tokens: At least one.
        sampling: How the answer is made; `max_tokens` fits the context.
    """

    tokens: tuple[int, ...]
    sampling: Sampling


def read_asked(request: Request, generation: Generation) -> Asked:
    """Read a request that fits one of the signatures.

    Args:
        request: Arrays by name.
        generation: The variant's limits.

    Raises:
        VariantInputError: The text is no UTF-8 or beyond any prompt, or a token or a parameter is out of its range.
    """
    prompt: str | tuple[int, ...]
    prompt = _text(request[TEXT], generation) if TEXT in request else _checked(request[TOKENS][0], generation)
    if not prompt:
        raise VariantInputError("the prompt is empty, must have at least 1 token")
    return Asked(
        prompt=prompt,
        sampling=read_sampling(_bytes(request[SAMPLING], SAMPLING)) if SAMPLING in request else None,
        streams=bool(request[STREAM][0]) if STREAM in request else None,
    )


def prompt_of(asked: Asked, pieces: BytePairs, generation: Generation) -> Prompt:
    """Turn a request's text into tokens: milliseconds for a long one.

    Args:
        asked: The request.
        pieces: The tokenizer.
        generation: The variant's limits.

    Raises:
        VariantInputError: The prompt leaves no room for the answer.
    """
    if isinstance(asked.prompt, str):
        tokens = tuple(prompt_tokens(pieces, generation.chat, asked.prompt))
    else:
        tokens = asked.prompt
    room = generation.context - len(tokens)
    if room < 1:
        raise VariantInputError(
            f"the prompt has {len(tokens)} tokens, must have less than {generation.context} to leave room for an answer"
        )
    sampling = asked.sampling or Sampling(max_tokens=min(Sampling().max_tokens, room))
    if sampling.max_tokens > room:
        raise VariantInputError(
            f"max_tokens is {sampling.max_tokens}, the context leaves room for {room}: ask for fewer, or send less"
        )
    return Prompt(tokens=tokens, sampling=sampling)


def _text(array: Array, generation: Generation) -> str:
    data = _bytes(array, TEXT)
    most = _BYTES_A_TOKEN * generation.context
    if len(data) > most:
        raise VariantInputError(f"{TEXT} has {len(data)} bytes, no prompt of this model has more than {most}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise VariantInputError(f"{TEXT} is not UTF-8 ({error.reason} at byte {error.start})") from None


def _bytes(array: Array, name: str) -> bytes:
    value = array[0]
    if not isinstance(value, bytes):
        raise VariantInputError(f"{name} is a {type(value).__name__}, must be UTF-8 bytes")
    return value


def _checked(ids: Array, generation: Generation) -> tuple[int, ...]:
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= generation.vocabulary_size:
        raise VariantInputError(
            f"{TOKENS} holds ids from {low} to {high}, must be in 0..{generation.vocabulary_size - 1}"
        )
    return tuple(int(token) for token in ids)


def answer_arrays(text: str, tokens: list[int], finish: str, input_tokens: int) -> dict[str, Array]:
    """An answer, or a part of one, as the outputs.

    Args:
        text: Its text.
        tokens: Its tokens.
        finish: Why it ended; empty where it goes on.
        input_tokens: Tokens of the prompt.
    """
    return {
        "text_output": np.array([text.encode()], np.object_),
        "token_ids": np.array(tokens, np.int64),
        "finish_reason": np.array([finish.encode()], np.object_),
        "num_input_tokens": np.array([input_tokens], np.int64),
    }
