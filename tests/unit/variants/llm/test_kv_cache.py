import numpy as np

from anabranch.variants.llm.kv_cache import CacheGeometry, Placed, Window, WindowCache

GEOMETRY = CacheGeometry(layers=1, heads=1, size=1, dtype="float32")


def positions_in(cache: WindowCache, rows: int) -> list[int]:
    """Where the tokens of the rows are in the text, as `mark` wrote them."""
    return [int(position) for position in cache.buffers[0, 0, 0, :rows, 0]]


def mark(cache: WindowCache, placed: Placed) -> None:
    """Do what the graph does: write the new tokens' rows."""
    new = placed.positions[0]
    cache.buffers[0, :, 0, placed.rows - len(new) : placed.rows, 0] = new


def test_a_window_holds_the_sinks_and_the_latest_tokens_in_rows_that_never_grow() -> None:
    cache = WindowCache(GEOMETRY, Window(sinks=2, recent=3), most_tokens=1)
    for position in range(50):
        placed = cache.place(1)
        mark(cache, placed)
        assert placed.visible is not None
        expected = {0, 1, position - 2, position - 1, position} & set(range(position + 1))
        assert set(positions_in(cache, placed.rows)) == expected
        assert (placed.visible == 0).all()
    assert cache.buffers.shape[3] == 5


def test_of_several_new_tokens_each_sees_its_own_window() -> None:
    cache = WindowCache(GEOMETRY, Window(sinks=1, recent=2), most_tokens=4)
    for start in range(0, 24, 4):
        placed = cache.place(4)
        mark(cache, placed)
        assert placed.visible is not None
        inside = np.array(positions_in(cache, placed.rows))
        for token, row in enumerate(placed.visible[0, 0]):
            position = start + token
            assert set(inside[row == 0]) == {0, max(position - 1, 0), position}


def test_a_row_of_a_cache_counts_keys_and_values_of_every_layer() -> None:
    assert CacheGeometry(layers=30, heads=3, size=64, dtype="float32").row_bytes == 30 * 2 * 3 * 64 * 4
