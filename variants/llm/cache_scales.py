"""Choose the scales of a KV cache in low bits: for every channel the one that loses the least of what calibration saw."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anabranch.variants.errors import BuildError
from anabranch.variants.llm.decoder_graph import CacheScales
from anabranch.variants.llm.decoder_session import CHUNK, DecoderSession
from anabranch.variants.llm.kv_cache import WholeCache

# Shares of the largest magnitude that the outermost level may stand for.
_SHARES = np.linspace(0.4, 1.0, 13)


def choose_scales(session: DecoderSession, text: Sequence[int], bits: int) -> CacheScales:
    """Run a text through a decoder with a full-precision cache, and fit the scales to what is in the cache.

    Args:
        session: The decoder in FP32.
        text: Tokens, none of them among those that measure the variant.
        bits: 4 or 8.

    Raises:
        BuildError: There is no text.
    """
    if not text:
        raise BuildError("a cache in low bits needs calibration tokens, got 0: give the model a text")
    cache = WholeCache(session.geometry, len(text), CHUNK)
    for start in range(0, len(text), CHUNK):
        session.step(cache, text[start : start + CHUNK])
    # (layers, 2, heads, rows, size) to (layers, 2, rows, channels)
    seen = np.moveaxis(cache.buffers, 3, 2).reshape(session.geometry.layers, 2, len(text), -1)
    fitted = [[fit(seen[layer, side], bits) for side in (0, 1)] for layer in range(session.geometry.layers)]
    return CacheScales(keys=tuple(pair[0] for pair in fitted), values=tuple(pair[1] for pair in fitted))


def fit(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """The scale of every channel with the least mean square error.

    Args:
        values: Shape (tokens, channels).
        bits: Codes run from -2**(bits - 1) to 2**(bits - 1) - 1.
    """
    top = (1 << (bits - 1)) - 1
    largest = np.abs(values).max(axis=0)
    # A channel that is always zero has any scale.
    largest = np.where(largest > 0, largest, np.float32(1))
    scales = _SHARES[:, None].astype(np.float32) * largest / top
    errors = np.stack(
        [
            ((np.clip(np.rint(values / scale), -top - 1, top) * scale - values) ** 2).mean(axis=0)
            for scale in scales
        ]
    )
    chosen: NDArray[np.float32] = np.take_along_axis(scales, errors.argmin(axis=0)[None], axis=0)[0]
    return chosen
