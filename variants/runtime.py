"""Load a built variant and answer requests with it: check, join, run, deal back."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from anabranch.variants.batching import Placement
from anabranch.variants.collation import deal_rows, run_joined, run_token_rows, trim_tokens
from anabranch.variants.engines import open_session
from anabranch.variants.errors import VariantInputError, VariantRunError
from anabranch.variants.manifest import Manifest, load_manifest
from anabranch.variants.recipes import Engine
from anabranch.variants.sessions import Session
from anabranch.variants.tensors import Array, Request, RequestCheck, Signature, TensorSpec
from anabranch.variants.wordpiece import TextEncoding, WordPiece

TEXT = "text"
# A hand-over to a thread costs this much of the loop's time anyway; a longer batch would hold up other requests.
_LOOP_MS = 0.1
_TIMED_BATCHES = 15
# Lengths met in practice; each makes the engine plan its memory once, before the first request.
_WARM_TEXTS = (
    "Fine.",
    "A quiet, patient film that earns its ending.",
    "The plot falls apart long before the last act, and no performance, however brave, can put it together again; "
    "what remains is a handsome picture about people whom we never learn to care for, told twice as long as it needs.",
)


class LoadedVariant:
    """A variant in memory. `infer` blocks; several threads may call it at once.

    Args:
        manifest: What was built.
        session: The engine with the artifact loaded.
        pieces: The tokenizer, where a signature takes text.
    """

    def __init__(self, manifest: Manifest, session: Session, pieces: WordPiece | None) -> None:
        self.manifest = manifest
        self._session = session
        self._pieces = pieces
        self._check = RequestCheck.of(manifest.signatures)
        self._batched = manifest.signatures[-1].batched and all(spec.batched for spec in manifest.outputs)

    @property
    def session(self) -> Session:
        """The engine with the artifact loaded."""
        return self._session

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

    @property
    def batched(self) -> bool:
        """Whether requests can share a call."""
        return self._batched

    def check_inputs(self, request: Request) -> int:
        """Refuse a request that the variant cannot take; return its rows.

        Raises:
            VariantInputError: With what was given and what is allowed.
        """
        rows = self._check.rows(request)
        self.check_contents(request)
        return rows

    @property
    def keeps_no_state(self) -> bool:
        """Each request stands alone."""
        return True

    @property
    def reads_contents(self) -> bool:
        """Whether inputs of the right types and shapes may be refused for what is in them."""
        return self.manifest.text is not None

    def check_contents(self, request: Request) -> None:
        """The part of `check_inputs` that depends on more than types and shapes.

        Raises:
            VariantInputError: With what was given and what is allowed.
        """
        encoding = self.manifest.text
        if encoding is None:
            return
        if TEXT in request:
            _check_text(request[TEXT])
        else:
            _check_tokens(request["input_ids"], encoding)

    def infer(self, requests: Sequence[Request]) -> list[dict[str, Array]]:
        """Answer requests together; each must have passed `check_inputs`.

        Args:
            requests: One mapping of input names to arrays each; signatures may differ.

        Returns:
            One mapping of output names to arrays a request, in order.

        Raises:
            VariantInputError: A request does not fit.
            VariantRunError: The engine failed; it is not known for which request.
        """
        if not requests:
            return []
        if self._pieces is not None:
            return self._infer_tokens(requests, self._pieces)
        if not self._batched:
            return [self._session.run(request) for request in requests]
        return run_joined(
            self._session.run, requests, [len(next(iter(request.values()))) for request in requests]
        )

    def _infer_tokens(self, requests: Sequence[Request], pieces: WordPiece) -> list[dict[str, Array]]:
        ids: list[Array] = []
        masks: list[Array] = []
        rows: list[int] = []
        for request in requests:
            before = len(ids)
            if TEXT in request:
                for text in request[TEXT]:
                    encoded = np.array(pieces.encode(_decode(text)), dtype=np.int64)
                    ids.append(encoded)
                    masks.append(np.ones_like(encoded))
            else:
                some_ids, some_masks = trim_tokens(request["input_ids"], request["attention_mask"])
                ids += some_ids
                masks += some_masks
            rows.append(len(ids) - before)
        return deal_rows(run_token_rows(self._session.run, ids, masks), rows)

    def warm(self, requests: Sequence[Request] = ()) -> None:
        """Run the variant, so that the first client does not wait for lazy set-up.

        Args:
            requests: Real requests; by default a few texts, or zeros where the model takes no text.

        Raises:
            VariantRunError: The variant cannot answer them, or answers what its manifest does not promise.
        """
        chosen = tuple(requests) or self.usual_requests()
        for batch in (chosen[:1], chosen):
            for answer in self.infer(batch):
                self._check_outputs(answer)

    def usual_requests(self) -> tuple[Request, ...]:
        """Texts of lengths met in practice; one request of zeros where the model takes no text."""
        if self._pieces is not None:
            return tuple({TEXT: np.array([text.encode()], dtype=np.object_)} for text in _WARM_TEXTS)
        return (zeros(self.manifest.signatures[-1]),)

    def _check_outputs(self, answer: Mapping[str, Array]) -> None:
        for spec in self.manifest.outputs:
            array = answer.get(spec.name)
            if array is None:
                raise VariantRunError(
                    f"{self.manifest.variant} gives {sorted(answer)}, must give {spec.name!r}"
                )
            problem = spec.mismatch(array)
            if problem is not None:
                raise VariantRunError(
                    f"{self.manifest.variant} breaks its manifest: output {spec.name!r} {problem}"
                )


def suitable_placement(
    variant: LoadedVariant, most_requests: int, stopwatch: Callable[[], float] = time.perf_counter
) -> Placement:
    """Where a variant's batches should run, by the latency in its manifest.

    Where that has none, as of an imported model, and requests differ in nothing but rows, a few batches are timed now: the
    median, as this may be a busy moment. What else is not known runs on a thread.

    Args:
        variant: The variant, warm.
        most_requests: Requests in its largest batch.
        stopwatch: A clock, in seconds.
    """
    latency = variant.manifest.latency
    if latency:
        slowest_ms = max(entry.p95_ms for entry in latency)
    elif _has_one_cost(variant.manifest):
        slowest_ms = _timed_ms(variant, most_requests, stopwatch)
    else:
        return Placement.THREAD
    return Placement.LOOP if slowest_ms < _LOOP_MS else Placement.THREAD


def _has_one_cost(manifest: Manifest) -> bool:
    """Whether requests of one row take the same time: no text, and no open dimension but the first."""
    return manifest.text is None and all(
        size >= 0 for signature in manifest.signatures for spec in signature.inputs for size in spec.shape[1:]
    )


def _timed_ms(variant: LoadedVariant, requests: int, stopwatch: Callable[[], float]) -> float:
    """The median of a few batches; fewer where they are slow, as a worker that starts waits for them."""
    batch = variant.usual_requests() * requests
    times_ms: list[float] = []
    while len(times_ms) < _TIMED_BATCHES and sum(times_ms) < _TIMED_BATCHES * _LOOP_MS:
        begin = stopwatch()
        try:
            variant.infer(batch)
        except VariantRunError:
            # It is charged with that when clients ask for it.
            return math.inf
        times_ms.append(1000.0 * (stopwatch() - begin))
    return statistics.median(times_ms)


def load_variant(folder: Path, *, threads: int = 1, trace: Path | None = None) -> LoadedVariant:
    """Verify a variant's files against its manifest and load it.

    Args:
        folder: The variant's folder.
        threads: Threads that share one call's work, at least 1.
        trace: Where ONNX Runtime's trace of every operator begins its file names; None for none.

    Raises:
        ManifestError: The files are not what was built.
        VariantError: The engine does not accept them.
    """
    manifest = load_manifest(folder)
    session = open_session(
        Engine(manifest.engine),
        folder / manifest.artifact,
        threads=threads,
        device=manifest.device,
        recipe=str(manifest.recipe["name"]),
        trace=trace,
    )
    encoding = manifest.text
    pieces = (
        WordPiece.from_file(folder / encoding.vocabulary, max_tokens=encoding.max_tokens)
        if encoding
        else None
    )
    return LoadedVariant(manifest, session, pieces)


def zeros(signature: Signature) -> dict[str, Array]:
    """A request of zeros (empty strings for BYTES); open dimensions have size 1."""
    request: dict[str, Array] = {}
    for spec in signature.inputs:
        shape = tuple(1 if size < 0 else size for size in spec.shape)
        if spec.datatype.dtype == np.object_:
            request[spec.name] = np.full(shape, b"", dtype=np.object_)
        else:
            request[spec.name] = np.zeros(shape, dtype=spec.datatype.dtype)
    return request


def _check_text(texts: Array) -> None:
    for index, text in enumerate(texts):
        _decode(text, index)


def _decode(text: object, index: int = 0) -> str:
    if not isinstance(text, bytes):
        raise VariantInputError(f"text[{index}] is a {type(text).__name__}, must be UTF-8 bytes")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise VariantInputError(
            f"text[{index}] is not UTF-8 ({error.reason} at byte {error.start})"
        ) from None


def _check_tokens(ids: Array, encoding: TextEncoding) -> None:
    tokens = ids.shape[1]
    if tokens > encoding.max_tokens:
        raise VariantInputError(
            f"input_ids has {tokens} tokens a row, must be at most {encoding.max_tokens}: cut the text"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= encoding.vocabulary_size:
        raise VariantInputError(
            f"input_ids holds ids from {low} to {high}, must be in 0..{encoding.vocabulary_size - 1}"
        )
