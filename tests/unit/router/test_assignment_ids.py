import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.router.assignment_id import Assignment, AssignmentIds, ForgedAssignment
from anabranch.store.records import Flag

KEY = bytes(range(32))
GIVEN = Assignment(
    experiment=3,
    epoch=9,
    arm=1,
    flags=Flag.EVIDENCE | Flag.STICKY,
    lane=7,
    sequence=12_345,
    top1=2,
    propensity=0.25,
)
# Written down once from the format; ids of running installations must stay readable.
GOLDEN = "AQMAAAAJAAAAAREHAAAAOTAAAAAAAAACAAAAAACAPsucALs5acnv"


@given(
    experiment=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2**32 - 1),
    arm=st.integers(0, 255),
    flags=st.integers(0, 31),
    lane=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**64 - 1),
    top1=st.integers(-1, 2**31 - 1),
    propensity=st.floats(0, 1, width=32),
)
def test_an_id_says_what_was_sealed(flags: int, **fields: float) -> None:
    ids = AssignmentIds(KEY)
    sealed = Assignment(flags=Flag(flags), **fields)  # type: ignore[arg-type]  # hypothesis knows the kinds
    assert ids.open(ids.seal(sealed)) == sealed


def test_the_format_is_fixed() -> None:
    assert AssignmentIds(KEY).seal(GIVEN) == GOLDEN
    assert AssignmentIds(KEY).open(GOLDEN) == GIVEN


def test_every_flipped_bit_is_refused() -> None:
    ids = AssignmentIds(KEY)
    for place in range(len(GOLDEN)):
        for bit in range(7):
            flipped = chr(ord(GOLDEN[place]) ^ (1 << bit))
            with pytest.raises(ForgedAssignment):
                ids.open(GOLDEN[:place] + flipped + GOLDEN[place + 1 :])


@pytest.mark.parametrize(
    "text", ["A", "nonsense", "ünïcode", GOLDEN[:-1], GOLDEN + "A", GOLDEN * 2, "=" * 52, "A" * 52]
)
def test_what_was_never_given_out_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ForgedAssignment, match="send it as it came with the answer"):
        AssignmentIds(KEY).open(text)


def test_an_empty_id_is_refused_with_who_has_one() -> None:
    with pytest.raises(
        ForgedAssignment, match="is empty: an answer has one only where an experiment's split"
    ):
        AssignmentIds(KEY).open("")


def test_ids_of_another_installation_are_refused() -> None:
    other = AssignmentIds(bytes(32))
    with pytest.raises(ForgedAssignment, match="not given out by this installation"):
        other.open(GOLDEN)


def test_a_digest_hides_the_unit_and_depends_on_the_installation() -> None:
    mine, other = AssignmentIds(KEY), AssignmentIds(bytes(32))
    assert mine.digest(b"ada") == AssignmentIds(KEY).digest(b"ada")
    assert len({mine.digest(b"ada"), mine.digest(b"bob"), other.digest(b"ada")}) == 3
    assert len(mine.digest(b"ada")) == 16


def test_a_short_key_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="the key has 15 bytes, at least 16 are needed"):
        AssignmentIds(bytes(15))
