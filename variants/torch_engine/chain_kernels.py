"""Products as GPU kernels that start into each other, in Triton, for chips that copy tiles by themselves.

Factors are in half precision, or in E4M3 with a scale for each column of the result.

Source:
    Dao et al. 2022, FlashAttention; Hendrycks and Gimpel 2016, GELU (its approximation by a hyperbolic tangent).
"""

# mypy: ignore-errors
# ruff: noqa: N803
# Triton compiles these functions: their arguments are pointers, descriptors of tiles and constants, which Python's types
# do not describe; the constants are written in capitals, as is the custom there.

import triton
import triton.language as tl

from anabranch.variants.torch_engine.kernels import MASKED, in_eighths, take_turn


@triton.jit
def multiply_and_attend(
    source,
    weight,
    scales,
    bias,
    mask,
    mixed,
    tokens,
    slope,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
    HALF: tl.constexpr,
):
    """Queries, keys and values of one head of one text, and their attention: none of them leaves the chip.

    `slope` is log2(e) / sqrt(SIZE). The keys' bias adds the same to all scores of a query, which softmax does not see;
    the values' adds itself to the answer, since shares add up to 1.
    """
    first = tl.program_id(0) * tokens
    head = tl.program_id(1) * SIZE
    lane = head + tl.arange(0, SIZE)
    token = tl.arange(0, TILE)
    is_token = token < tokens
    of_query = tl.load(bias + lane).to(tl.float32)[None, :]
    of_value = tl.load(bias + 2 * WIDTH + lane).to(tl.float32)[None, :]
    take_turn(True)
    query = tl.zeros((TILE, SIZE), tl.float32)
    key = tl.zeros((TILE, SIZE), tl.float32)
    value = tl.zeros((TILE, SIZE), tl.float32)
    for k in range(0, WIDTH, DEPTH):
        # Rows beyond the text are another's, or none: their keys are hidden, their answers not kept.
        read = source.load([first, k])
        query = tl.dot(read, tl.trans(weight.load([head, k])), query)
        key = tl.dot(read, tl.trans(weight.load([WIDTH + head, k])), key)
        value = tl.dot(read, tl.trans(weight.load([2 * WIDTH + head, k])), value)
    if scales is not None:
        query *= tl.load(scales + lane)[None, :]
        key *= tl.load(scales + WIDTH + lane)[None, :]
        value *= tl.load(scales + 2 * WIDTH + lane)[None, :]
    seen = tl.load(mask + first + token, mask=is_token, other=0)
    hidden = tl.where(is_token, tl.where(seen == 0, MASKED, 0.0), -float("inf"))
    scores = tl.dot((query + of_query).to(HALF), tl.trans(key.to(HALF))) * slope + hidden[None, :]
    shares = tl.exp2(scores - tl.max(scores, axis=1)[:, None])
    whole = tl.sum(shares, axis=1)[:, None]
    found = tl.dot(shares.to(HALF), value.to(HALF)) / whole + of_value
    kept = found.to(HALF) if scales is None else in_eighths(found)
    tl.store(mixed + (first + token)[:, None] * WIDTH + lane[None, :], kept, mask=is_token[:, None])


@triton.jit
def multiply(
    source,
    weight,
    scales,
    bias,
    result,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GELU: tl.constexpr,
):
    """A product with its bias, and GELU where that follows; the result is in half precision, or in E4M3 where it is asked for."""
    row, column = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    lane = column + tl.arange(0, COLUMNS)
    offset = tl.load(bias + lane).to(tl.float32)[None, :]
    take_turn(True)
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in range(0, INPUTS, DEPTH):
        value = tl.dot(source.load([row, k]), tl.trans(weight.load([column, k])), value)
    if scales is not None:
        value *= tl.load(scales + lane)[None, :]
    value += offset
    if GELU:
        bent = value * (0.7978845608 + 0.0356774081 * value * value)
        # One instruction, where an exponential and a division are many; its error is below half precision's.
        bent = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [bent], dtype=tl.float32, is_pure=True, pack=1
        )
        value = 0.5 * value * (1.0 + bent)
    if result.dtype == tl.float8e4nv:
        result.store([row, column], in_eighths(value))
    else:
        result.store([row, column], value.to(result.dtype))
