"""Write what a recipe makes of a decoder: the graph, and its weights beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import onnx

from anabranch.variants.errors import RecipeError
from anabranch.variants.llm.decoder import Decoder
from anabranch.variants.llm.decoder_graph import (
    Arithmetic,
    CacheForm,
    CacheScales,
    GraphPlan,
    decoder_graph,
)
from anabranch.variants.llm.kv_cache import Window
from anabranch.variants.llm.recipes import KvInt4, KvInt8, KvSinks, KvWindow, LanguageRecipe, TensorParallel
from anabranch.variants.recipes import Fp16, Fp32, Int4WeightOnly, Int8WeightOnly

GRAPH = "model.onnx"
WEIGHTS = "weights.bin"
# Smaller tensors stay inside the graph, where the optimizer reads them.
_OUTSIDE_BYTES = 1_024


def window_of(recipe: LanguageRecipe) -> Window | None:
    """What a recipe's cache remembers; None for everything."""
    match recipe:
        case KvWindow():
            return Window(sinks=0, recent=recipe.recent)
        case KvSinks():
            return Window(sinks=recipe.sinks, recent=recipe.recent)
        case _:
            return None


def plan_of(recipe: LanguageRecipe, scales: Callable[[int], CacheScales]) -> GraphPlan:
    """The graph that a recipe asks for.

    Args:
        recipe: Any but tensor parallelism, whose graphs are cut.
        scales: Gives the scales of a cache in that many bits.

    Raises:
        RecipeError: The recipe has no single graph.
    """
    match recipe:
        case Fp32():
            return GraphPlan()
        case Fp16():
            return GraphPlan(arithmetic=Arithmetic.FP16)
        case Int8WeightOnly():
            return GraphPlan(weight_bits=8)
        case Int4WeightOnly():
            return GraphPlan(weight_bits=4)
        case KvWindow() | KvSinks():
            return GraphPlan(cache=CacheForm.PLACES)
        case KvInt8():
            return GraphPlan(cache_bits=8, cache_scales=scales(8))
        case KvInt4():
            return GraphPlan(cache_bits=4, cache_scales=scales(4))
        case TensorParallel():
            raise RecipeError(f"{recipe.name} is made of several graphs")
        case _:
            assert_never(recipe)


def write_graph(decoder: Decoder, plan: GraphPlan, folder: Path) -> tuple[str, ...]:
    """Write one graph and its weights; return the names of the files, the graph first."""
    graph = decoder_graph(decoder, plan)
    onnx.save(
        graph,
        str(folder / GRAPH),
        save_as_external_data=True,
        location=WEIGHTS,
        size_threshold=_OUTSIDE_BYTES,
    )
    return tuple(name for name in (GRAPH, WEIGHTS) if (folder / name).is_file())
