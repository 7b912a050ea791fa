import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.variants.collation import (
    deal_rows,
    length_groups,
    run_joined,
    run_token_rows,
    trim_tokens,
)
from anabranch.variants.errors import VariantRunError
from anabranch.variants.tensors import Array


def _cost(groups: list[list[int]], lengths: list[int], call_cost: int) -> int:
    return sum(call_cost + len(group) * max(lengths[index] for index in group) for group in groups)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 40))
def test_no_cut_of_the_sorted_rows_is_cheaper(lengths: list[int], call_cost: int) -> None:
    groups = length_groups(lengths, call_cost)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best = min(
        _cost(
            [order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])],
            lengths,
            call_cost,
        )
        for count in range(len(order))
        for cuts in itertools.combinations(range(1, len(order)), count)
    )
    assert _cost(groups, lengths, call_cost) == best


def test_rows_of_equal_length_share_a_call_in_their_order() -> None:
    assert length_groups([5, 5, 5]) == [[0, 1, 2]]
    assert length_groups([]) == []


def _sum(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {"sum": (feeds["input_ids"] * feeds["attention_mask"]).sum(axis=1)}


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=70), min_size=1, max_size=12))
def test_padded_rows_come_back_in_order(rows: list[list[int]]) -> None:
    ids = [np.array(row) for row in rows]
    out = run_token_rows(_sum, ids, [np.ones_like(row) for row in ids])
    assert out["sum"].tolist() == [sum(row) for row in rows]


def test_padding_behind_the_last_token_is_cut_and_holes_are_kept() -> None:
    ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]])
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    cut_ids, cut_masks = trim_tokens(ids, mask)
    assert [row.tolist() for row in cut_ids] == [[1, 2], [5, 6, 7], [9]]
    assert [row.tolist() for row in cut_masks] == [[1, 1], [1, 0, 1], [0]]


def test_requests_of_one_inner_shape_share_a_call_and_others_do_not() -> None:
    calls: list[tuple[int, ...]] = []

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        calls.append(feeds["x"].shape)
        return {"y": feeds["x"].sum(axis=1), "z": feeds["x"][:, :1]}

    shapes = [(1, 3), (2, 5), (3, 3), (1, 5)]
    requests = [{"x": np.full(shape, index)} for index, shape in enumerate(shapes)]
    answers = run_joined(run, requests, [shape[0] for shape in shapes])
    assert calls == [(4, 3), (3, 5)]
    assert [answer["y"].tolist() for answer in answers] == [[0], [5, 5], [6, 6, 6], [15]]
    assert [answer["z"].shape[0] for answer in answers] == [1, 2, 3, 1]


def test_a_model_that_mixes_rows_up_is_found_out() -> None:
    with pytest.raises(VariantRunError, match="has 1 rows for 3 rows"):
        deal_rows({"y": np.zeros(1)}, [1, 2])
