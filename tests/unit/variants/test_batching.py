import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anabranch.variants.batching import Answer, BatchPolicy, Failure, QueueFull, Ticket, VariantQueue
from anabranch.variants.errors import VariantError


def _ignore(_: Answer | Failure) -> None:
    return


def _ticket(
    queue: VariantQueue, sequence: int, *, rows: int = 1, priority: int = 1, deadline: float = math.inf
) -> Ticket:
    ticket = Ticket(
        {"x": np.array([sequence])},
        rows,
        priority,
        deadline,
        _ignore,
        sequence,
        float(sequence),
        queue.discard,
    )
    queue.push(ticket)
    return ticket


def _sequences(tickets: list[Ticket]) -> list[int]:
    return [ticket.sequence for ticket in tickets]


def test_a_batch_is_taken_by_deadline_then_arrival() -> None:
    queue = VariantQueue(BatchPolicy(max_batch_size=3))
    for sequence, deadline in enumerate([9.0, math.inf, 5.0, 5.0]):
        _ticket(queue, sequence, deadline=deadline)
    assert _sequences(queue.take(0.0)[0]) == [2, 3, 0]
    assert _sequences(queue.take(0.0)[0]) == [1]


def test_a_batch_holds_one_priority_only() -> None:
    queue = VariantQueue(BatchPolicy())
    _ticket(queue, 0, priority=100)
    _ticket(queue, 1, priority=1)
    _ticket(queue, 2, priority=100)
    assert _sequences(queue.take(0.0)[0]) == [1]
    assert _sequences(queue.take(0.0)[0]) == [0, 2]


def test_rows_fill_a_batch_and_a_large_request_runs_alone() -> None:
    queue = VariantQueue(BatchPolicy(max_batch_size=4))
    for sequence, rows in enumerate([3, 1, 2, 9, 1]):
        _ticket(queue, sequence, rows=rows)
    batches = []
    while queue.requests:
        batches.append(_sequences(queue.take(0.0)[0]))
    assert batches == [[0, 1], [2], [3], [4]]


def test_a_preferred_size_is_met_and_the_rest_waits() -> None:
    queue = VariantQueue(BatchPolicy(max_batch_size=16, preferred_batch_size=(2, 4)))
    for sequence in range(5):
        _ticket(queue, sequence)
    assert len(queue.take(0.0)[0]) == 4
    assert len(queue.take(0.0)[0]) == 1


def test_work_past_its_deadline_is_set_apart_and_not_run() -> None:
    queue = VariantQueue(BatchPolicy())
    _ticket(queue, 0, deadline=1.0)
    _ticket(queue, 1, deadline=3.0)
    batch, late = queue.take(1.0)
    assert (_sequences(batch), _sequences(late)) == ([1], [0])
    assert queue.requests == 0


def test_a_full_queue_refuses_with_both_numbers() -> None:
    queue = VariantQueue(BatchPolicy(max_queue_size=2))
    _ticket(queue, 0)
    _ticket(queue, 1)
    with pytest.raises(QueueFull, match="2 requests wait, max_queue_size is 2"):
        _ticket(queue, 2)
    assert queue.requests == 2


def test_a_full_queue_drops_the_least_urgent_work_for_more_urgent_work() -> None:
    queue = VariantQueue(BatchPolicy(max_queue_size=3))
    _ticket(queue, 0, priority=100, deadline=5.0)
    _ticket(queue, 1, priority=100, deadline=9.0)
    _ticket(queue, 2, priority=1)
    urgent = Ticket({}, 1, 1, math.inf, _ignore, 3, 3.0, queue.discard)
    dropped = queue.push(urgent)
    assert dropped is not None
    assert dropped.sequence == 1
    assert _sequences(queue.take(0.0)[0]) == [2, 3]
    assert _sequences(queue.take(0.0)[0]) == [0]


def test_cancelled_work_leaves_the_queue_and_frees_its_place() -> None:
    queue = VariantQueue(BatchPolicy(max_queue_size=1))
    first = _ticket(queue, 0)
    assert first.cancel()
    assert first.inputs is None
    _ticket(queue, 1)
    assert _sequences(queue.take(0.0)[0]) == [1]


def test_running_work_cannot_be_taken_back() -> None:
    queue = VariantQueue(BatchPolicy())
    ticket = _ticket(queue, 0)
    queue.take(0.0)
    assert not ticket.cancel()


def test_cancelled_work_does_not_pile_up() -> None:
    queue = VariantQueue(BatchPolicy(max_queue_size=4))
    _ticket(queue, 0)
    for sequence in range(1, 1_000):
        _ticket(queue, sequence).cancel()
    assert sum(len(level) for level in queue._levels.values()) < 40


def test_a_request_waits_for_company_as_long_as_the_delay() -> None:
    queue = VariantQueue(BatchPolicy(max_batch_size=3, max_queue_delay_microseconds=500_000))
    first = _ticket(queue, 0, deadline=100.0)
    second = _ticket(queue, 1, deadline=1.0)
    assert queue.head() is second
    assert queue.ripe_at(second) == first.submitted_s + 0.5
    _ticket(queue, 2)
    assert queue.ripe_at(second) == -math.inf


@pytest.mark.parametrize(
    "fields",
    [
        {"max_batch_size": 0},
        {"max_queue_size": 0},
        {"max_queue_delay_microseconds": -1},
        {"preferred_batch_size": (4, 2)},
        {"preferred_batch_size": (17,)},
    ],
)
def test_an_impossible_policy_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(VariantError, match=next(iter(fields))):
        BatchPolicy(**fields)  # type: ignore[arg-type]  # one bad field a case


@given(
    st.lists(
        st.tuples(
            st.integers(1, 5),
            st.sampled_from([1, 2, 100]),
            st.sampled_from([1.0, 2.0, math.inf]),
            st.booleans(),
        ),
        max_size=60,
    ),
    st.integers(1, 8),
)
def test_every_ticket_comes_out_once_in_order_unless_cancelled(
    work: list[tuple[int, int, float, bool]], size: int
) -> None:
    queue = VariantQueue(BatchPolicy(max_batch_size=size))
    expected = []
    for sequence, (rows, priority, deadline, cancelled) in enumerate(work):
        ticket = _ticket(queue, sequence, rows=rows, priority=priority, deadline=deadline)
        if cancelled:
            ticket.cancel()
        else:
            expected.append(ticket)
    taken: list[Ticket] = []
    while queue.requests:
        batch, late = queue.take(0.0)
        assert not late
        assert len(batch) == 1 or sum(ticket.rows for ticket in batch) <= size
        taken += batch
    assert taken == sorted(expected, key=lambda ticket: (ticket.priority, ticket.deadline, ticket.sequence))
    assert queue.take(0.0) == ([], [])
