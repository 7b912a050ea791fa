"""The GPU kernels between an encoder's products, in Triton; the products themselves are the vendor's library's.

Each reads what a product left and leaves what the next one reads, so that nothing is only moved, split or transposed.
Those with CHAINED may be launched while the kernel before them ends: they wait for it before they read what it wrote.

Source:
    Dao et al. 2022, FlashAttention (softmax block by block); Ba et al. 2016, Layer normalization.
"""

# mypy: ignore-errors
# ruff: noqa: N803
# Triton compiles these functions: their arguments are pointers and constants, which Python's types do not describe;
# the constants are written in capitals, as is the custom there.

import triton
import triton.language as tl

# What numbers in E4M3 are multiplied by: the format is as fine from 0.002 to 56 then, which norms, GELU and attention
# leave, and nothing has to be measured. What is larger becomes 56.
EIGHTHS = tl.constexpr(8.0)
_MOST = tl.constexpr(448.0)
# Added to the score of padding, in units of log 2; the other engines add -10,000.
MASKED = tl.constexpr(-14426.950408889634)


@triton.jit
def take_turn(CHAINED: tl.constexpr):
    """Wait until the kernel before has written everything, and let the next one be launched."""
    if CHAINED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def in_eighths(value):
    """Numbers in E4M3."""
    return tl.clamp(value * EIGHTHS, -_MOST, _MOST).to(tl.float8e4nv)


@triton.jit
def embed_and_norm(
    ids,
    words,
    positions,
    kind,
    scale,
    shift,
    hidden,
    tokens,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    EPSILON: tl.constexpr,
    eighths=None,
):
    """Word, position and token type, normed, and once more in E4M3 where that is asked for; one program a token."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    word = tl.load(ids + row).to(tl.int64)
    value = tl.load(words + word * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(positions + (row % tokens) * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(kind + column, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value) / WIDTH, 0.0)
    steep = tl.rsqrt(tl.sum(centred * centred) / WIDTH + EPSILON)
    factor = tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
    offset = tl.load(shift + column, mask=inside, other=0.0).to(tl.float32)
    result = centred * steep * factor + offset
    tl.store(hidden + row * WIDTH + column, result.to(hidden.dtype.element_ty), mask=inside)
    if eighths is not None:
        tl.store(eighths + row * WIDTH + column, in_eighths(result), mask=inside)


@triton.jit
def add_and_norm(
    change,
    residual,
    scale,
    shift,
    hidden,
    rows,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    EPSILON: tl.constexpr,
    CHAINED: tl.constexpr = False,
    eighths=None,
):
    """The norm of a sum, and once more in E4M3 where that is asked for; a few rows a program."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < WIDTH)[None, :]
    place = row[:, None] * WIDTH + column[None, :]
    factor = tl.load(scale + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    offset = tl.load(shift + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    take_turn(CHAINED)
    value = tl.load(change + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, value - (tl.sum(value, axis=1) / WIDTH)[:, None], 0.0)
    steep = tl.rsqrt(tl.sum(centred * centred, axis=1) / WIDTH + EPSILON)
    result = centred * steep[:, None] * factor[None, :] + offset[None, :]
    tl.store(hidden + place, result.to(hidden.dtype.element_ty), mask=inside)
    if eighths is not None:
        tl.store(eighths + place, in_eighths(result), mask=inside)


@triton.jit
def attention(
    packed,
    mask,
    mixed,
    tokens,
    slope,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Attention of one head of one text, read where the product left queries, keys and values side by side.

    `slope` is log2(e) / sqrt(SIZE): powers of two are cheaper than those of e.
    """
    width = HEADS * SIZE
    text = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    query = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    lane = tl.arange(0, SIZE)
    first = text.to(tl.int64) * tokens
    base = packed + first * 3 * width + head * SIZE
    is_query = (query < tokens)[:, None]
    asked = tl.load(base + query[:, None] * 3 * width + lane[None, :], mask=is_query, other=0.0)
    highest = tl.full((QUERIES,), -float("inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, SIZE), tl.float32)
    for start in range(0, tokens, KEYS):
        key = start + tl.arange(0, KEYS)
        is_key = key < tokens
        place = base + key[:, None] * 3 * width + lane[None, :]
        keys = tl.load(place + width, mask=is_key[:, None], other=0.0)
        values = tl.load(place + 2 * width, mask=is_key[:, None], other=0.0)
        seen = tl.load(mask + first + key, mask=is_key, other=0)
        hidden = tl.where(is_key, tl.where(seen == 0, MASKED, 0.0), -float("inf"))
        scores = tl.dot(asked, tl.trans(keys)) * slope + hidden[None, :]
        peak = tl.maximum(highest, tl.max(scores, axis=1))
        shares = tl.exp2(scores - peak[:, None])
        fade = tl.exp2(highest - peak)
        weight = weight * fade + tl.sum(shares, axis=1)
        total = tl.dot(shares.to(values.dtype), values, total * fade[:, None])
        highest = peak
    found = (total / weight[:, None]).to(mixed.dtype.element_ty)
    tl.store(mixed + (first + query[:, None]) * width + head * SIZE + lane[None, :], found, mask=is_query)


@triton.jit
def pool(
    hidden,
    mask,
    matrix,
    bias,
    embedding,
    logits,
    tokens,
    CLASSES: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CHAINED: tl.constexpr = False,
):
    """The mean of a text's tokens, of length 1, and the head's logits; one program a text."""
    text = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    take_turn(CHAINED)
    total = tl.zeros((BLOCK,), tl.float32)
    count = 0.0
    for start in range(0, tokens, ROWS):
        row = start + tl.arange(0, ROWS)
        seen = tl.load(mask + text * tokens + row, mask=row < tokens, other=0).to(tl.float32)
        is_read = (row < tokens)[:, None] & inside[None, :]
        place = hidden + (text * tokens + row)[:, None] * WIDTH + column[None, :]
        total += tl.sum(tl.load(place, mask=is_read, other=0.0).to(tl.float32) * seen[:, None], axis=0)
        count += tl.sum(seen)
    pooled = total / tl.maximum(count, 1.0)
    unit = pooled / tl.maximum(tl.sqrt(tl.sum(pooled * pooled)), 1e-12)
    tl.store(embedding + text * WIDTH + column, unit, mask=inside)
    for index in range(CLASSES):
        line = tl.load(matrix + index * WIDTH + column, mask=inside, other=0.0)
        tl.store(logits + text * CLASSES + index, tl.sum(unit * line) + tl.load(bias + index))
