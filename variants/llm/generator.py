"""A variant in memory that generates text: events for those who stream, whole answers for the others."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import ManifestError, VariantError, VariantRunError
from anabranch.variants.llm.byte_pairs import BytePairs, Vocabulary
from anabranch.variants.llm.decode_batch import DecodeBatch, Member
from anabranch.variants.llm.decoder_session import DecoderSession
from anabranch.variants.llm.description import Generation
from anabranch.variants.llm.generation import (
    Answering,
    BatchStepper,
    Finish,
    Stepper,
    Token,
    generate,
    logits_of,
)
from anabranch.variants.llm.gpu.artifact import DESCRIPTION
from anabranch.variants.llm.parallel.shards import SHAPE as SHARDS
from anabranch.variants.llm.requests import Asked, Prompt, answer_arrays, prompt_of, read_asked
from anabranch.variants.llm.sampling import Sampling
from anabranch.variants.manifest import Manifest, load_manifest
from anabranch.variants.recipes import Device
from anabranch.variants.tensors import Array, Request, RequestCheck, Signature, TensorSpec

_WARM_TOKENS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One step of an answer.

    Args:
        text: What it adds to the text; empty while a character is not complete.
        tokens: What it adds to the tokens: one, or none at an end.
        finish: Why it is the last one; None where more come.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish | None


class Texts:
    """Makes events of an answer's tokens: a character comes with its last byte.

    Args:
        pieces: The tokenizer.
    """

    __slots__ = ("_stream",)

    def __init__(self, pieces: BytePairs) -> None:
        self._stream = pieces.stream()

    def event(self, token: Token) -> TokenEvent:
        """What the next token adds."""
        added = self._stream.push(token.id) if token.id is not None else ""
        if token.finish is not None:
            added += self._stream.finish()
        return TokenEvent(text=added, tokens=() if token.id is None else (token.id,), finish=token.finish)


class Generator:
    """A loaded variant. Several threads may generate at once; each answer has a cache of its own.

    Args:
        manifest: What was built.
        session: The decoder.
        pieces: The tokenizer.

    Raises:
        ManifestError: The manifest does not describe a generator.
    """

    keeps_no_state = True
    reads_contents = True
    batched = False

    def __init__(self, manifest: Manifest, session: Stepper, pieces: BytePairs) -> None:
        if manifest.generation is None:
            raise ManifestError(f"{manifest.variant} generates no text: build it from a language model")
        self.manifest = manifest
        self.generation: Generation = manifest.generation
        self._session = session
        self._pieces = pieces
        self._check = RequestCheck.of(manifest.signatures)
        self._stops = frozenset(manifest.generation.stops)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """What clients may send; one of them a request."""
        return self.manifest.signatures

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the preferred signature."""
        return self.manifest.signatures[0].inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What clients get."""
        return self.manifest.outputs

    def check_inputs(self, request: Request) -> int:
        """Refuse a request that the variant cannot take; return its rows, which is 1.

        Raises:
            VariantInputError: With what was given and what is allowed.
        """
        self._check.rows(request)
        self.check_contents(request)
        return 1

    def check_contents(self, request: Request) -> None:
        """Refuse a prompt or a parameter that fits its tensor but not the variant.

        Raises:
            VariantInputError: With what was given and what is allowed.
        """
        self.read(request)

    def read(self, request: Request) -> Asked:
        """What a request asks for; its text is not yet in tokens.

        Raises:
            VariantInputError: It does not fit the variant.
        """
        return read_asked(request, self.generation)

    def prompt(self, asked: Asked) -> Prompt:
        """The request in tokens; for the thread that generates.

        Raises:
            VariantInputError: The prompt leaves no room for the answer.
        """
        return prompt_of(asked, self._pieces, self.generation)

    def generate(
        self, prompt: Prompt, *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[TokenEvent]:
        """Answer a prompt; blocks between events. The last event, and no other, has a `finish`.

        Args:
            prompt: From `prompt`.
            is_cancelled: Asked before every token; may be called on any thread.

        Raises:
            VariantRunError: The engine failed.
        """
        texts = self.texts()
        for token in self.events(self.answering(prompt), is_cancelled=is_cancelled):
            yield texts.event(token)

    def answering(self, prompt: Prompt) -> Answering:
        """An answer, not yet begun."""
        return self.answering_tokens(prompt.tokens, prompt.sampling, stops=self._stops)

    def answering_tokens(
        self, prompt: Sequence[int], sampling: Sampling, *, stops: frozenset[int]
    ) -> Answering:
        """An answer to tokens, which the stops that are given end, and no others."""
        draws = random.Random(sampling.seed)
        return Answering(prompt, sampling, stops=stops, draw=draws.random)

    def texts(self) -> "Texts":
        """Makes events of one answer's tokens."""
        return Texts(self._pieces)

    def events(
        self, answering: Answering, *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Token]:
        """The tokens of an answer.

        Args:
            answering: Not yet begun.
            is_cancelled: Asked before every token.

        Raises:
            VariantRunError: The engine failed.
        """
        cache = self._session.new_cache(self.generation.window, answering.tokens)
        return generate(self._session, cache, answering, is_cancelled)

    def new_batch(self, slots: int, clock: Callable[[], float]) -> DecodeBatch | None:
        """Answers that share the decoder's steps; None where they cannot.

        Args:
            slots: Answers at most, at least 1.
            clock: Seconds.
        """
        if not self.generation.shares_steps:
            return None
        batch = DecodeBatch(
            cast(BatchStepper, self._session),
            self.generation.window,
            slots=slots,
            context=self.generation.context,
            clock=clock,
        )
        if self.manifest.device is Device.CUDA:
            self._warm_batch(batch)
        return batch

    def _warm_batch(self, batch: DecodeBatch) -> None:
        """Compile and record the steps of every number of answers now, not while a client waits."""
        texts = 1
        while True:
            for _ in range(min(texts, batch.slots)):
                answering = self.answering_tokens(
                    (1, 2), Sampling(max_tokens=_WARM_TOKENS), stops=frozenset()
                )
                batch.join(Member(answering, lambda: False))
            while batch.size:
                for step in batch.advance():
                    if step.error is not None:
                        raise step.error
            if texts >= batch.slots:
                return
            texts *= 2

    def infer(self, requests: Sequence[Request]) -> list[dict[str, Array]]:
        """Whole answers, one after the other; blocks until all are there.

        Raises:
            VariantInputError: A request does not fit.
            VariantRunError: The engine failed.
        """
        return [self._whole(self.prompt(self.read(request))) for request in requests]

    def _whole(self, prompt: Prompt) -> dict[str, Array]:
        events = list(self.generate(prompt))
        finish = events[-1].finish
        return answer_arrays(
            "".join(event.text for event in events),
            [token for event in events for token in event.tokens],
            str(finish) if finish else "",
            len(prompt.tokens),
        )

    def logits(self, text: Sequence[int], first: int) -> Iterator[NDArray[np.float32]]:
        """Logits for the tokens of a text from `first` on, each from the tokens before it, in chunks.

        Args:
            text: At least two tokens, at most the context.
            first: The first token that is predicted, at least 1.

        Raises:
            VariantRunError: The engine failed.
        """
        cache = self._session.new_cache(self.generation.window, len(text))
        return logits_of(self._session, cache, text, first)

    def close(self) -> None:
        """Give back what it holds beyond this process's memory; nothing may be asked of it afterwards."""
        self._session.close()

    def warm(self, requests: Sequence[Request] = ()) -> None:
        """Generate a few tokens, so that the first client does not wait for lazy set-up.

        Args:
            requests: Real requests; by default one short message.

        Raises:
            VariantRunError: The variant cannot answer, or answers what its manifest does not promise.
        """
        default: Request = {
            "text_input": np.array([b"Hello."], np.object_),
            "sampling_parameters": np.array([f'{{"max_tokens": {_WARM_TOKENS}}}'.encode()], np.object_),
        }
        for answer in self.infer(tuple(requests) or (default,)):
            self._check_outputs(answer)

    def _check_outputs(self, answer: Mapping[str, Array]) -> None:
        for spec in self.manifest.outputs:
            array = answer[spec.name]
            # An answer may have no token at all.
            problem = spec.mismatch(array) if array.size else None
            if problem is not None:
                raise VariantRunError(
                    f"{self.manifest.variant} breaks its manifest: output {spec.name!r} {problem}"
                )


def load_generator(folder: Path, *, threads: int = 1) -> Generator:
    """Verify a generating variant's files against its manifest and load it.

    Args:
        folder: The variant's folder.
        threads: Threads that share one call's work, at least 1.

    Raises:
        ManifestError: The files are not what was built, or generate no text.
        VariantError: The engine does not accept them.
    """
    manifest = load_manifest(folder)
    if manifest.generation is None:
        raise ManifestError(f"{folder} generates no text: load it as other variants are")
    pieces = BytePairs(Vocabulary.from_file(folder / manifest.generation.vocabulary))
    session = open_decoder(folder, manifest.artifact, threads=threads)
    return Generator(manifest, session, pieces)


def open_decoder(folder: Path, artifact: str, *, threads: int) -> Stepper:
    """Open what a recipe has made of a decoder: one graph, tensors for a GPU, or shards for several processes.

    Args:
        folder: The variant's folder.
        artifact: The file that says what it is.
        threads: Threads that share one call's work, in every process.

    Raises:
        VariantError: The engine does not accept it, or is not installed.
    """
    if artifact not in (SHARDS, DESCRIPTION):
        return DecoderSession(folder / artifact, threads=threads)
    try:
        # Torch is an optional extra and takes seconds to import.
        if artifact == DESCRIPTION:
            from anabranch.variants.llm.gpu.session import GpuSession

            return GpuSession(folder)
        from anabranch.variants.llm.parallel.session import ParallelSession
    except ImportError as error:
        raise VariantError(f"{folder} needs torch: pip install 'anabranch[torch]'") from error
    return ParallelSession(folder, threads=threads)
