"""The lease over a simulated clock: any order of asking, saving, pausing and setting the clock."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anabranch.store.lease import Lease, LeaseLost, LeaseRecord, holder_name, taken
from anabranch.store.memory_replicas import MemoryReplicas

DURATION_S = 10.0
HOLDERS = ("ann", "bob", "cat")
SECONDS = st.floats(min_value=0.0, max_value=3 * DURATION_S)
WHO = st.sampled_from(HOLDERS)


@dataclass(slots=True)
class Life:
    """What one controller believes."""

    lease: Lease | None = None
    tokens: list[int] = field(default_factory=list)


class Controllers(RuleBasedStateMachine):
    """Three controllers that may be paused anywhere: between taking the lease and saving, any time may pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.quiet_s = 0.0
        """Time since the lease was renewed last, by a clock that nobody sets."""
        self.replicas = MemoryReplicas(lambda: self.now)
        self.lives = {name: Life() for name in HOLDERS}
        self.written: list[tuple[int, str]] = []
        self.clock_was_set = False

    @rule(who=WHO)
    def ask(self, who: str) -> None:
        before = self.replicas.leader()
        lease = self.replicas.lead(who, DURATION_S)
        is_anothers = before is not None and before.holder != who
        assert (lease is None) is is_anothers
        if self.quiet_s >= DURATION_S and not self.clock_was_set:
            assert lease is not None, "nobody waits longer than the lease lasts"
        if lease is not None:
            self.lives[who].lease = lease
            self.lives[who].tokens.append(lease.token)
            self.quiet_s, self.clock_was_set = 0.0, False

    @rule(who=WHO)
    def save(self, who: str) -> None:
        lease = self.lives[who].lease
        if lease is None:
            return
        newest = max(token for life in self.lives.values() for token in life.tokens)
        if lease.token < newest:
            with pytest.raises(LeaseLost, match=f"{who} led with token {lease.token}, now"):
                self.replicas.renew(lease)
            return
        self.replicas.renew(lease)
        self.written.append((lease.token, who))
        self.quiet_s, self.clock_was_set = 0.0, False

    @rule(who=WHO)
    def step_down(self, who: str) -> None:
        lease = self.lives[who].lease
        if lease is None:
            return
        leader = self.replicas.leader()
        self.replicas.step_down(lease)
        if leader is not None and leader.lease == lease:
            assert self.replicas.leader() is None
        else:
            assert self.replicas.leader() == leader

    @rule(elapsed_s=SECONDS)
    def pass_time(self, elapsed_s: float) -> None:
        self.now += elapsed_s
        self.quiet_s += elapsed_s

    @rule(step_s=st.floats(min_value=-1e6, max_value=1e6))
    def set_the_clock(self, step_s: float) -> None:
        self.now += step_s
        self.clock_was_set = True

    @invariant()
    def what_is_written_has_tokens_that_only_grow_each_of_one_holder(self) -> None:
        tokens = [token for token, _ in self.written]
        assert tokens == sorted(tokens)
        assert len(dict(self.written)) == len(set(self.written))

    @invariant()
    def no_token_is_given_to_two(self) -> None:
        given = [token for life in self.lives.values() for token in set(life.tokens)]
        assert len(given) == len(set(given))


Controllers.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestControllers = Controllers.TestCase


@pytest.mark.parametrize("step_s", [-1e6, -15.0, -9.0, 0.0, 9.0, 1e6])
def test_however_the_clock_is_set_the_next_one_leads_within_two_lease_times(step_s: float) -> None:
    record = LeaseRecord(holder="ann", token=7, renewed_s=1_000.0, duration_s=DURATION_S)
    now = 1_000.0 + step_s
    waited_s = 0.0
    while (after := taken(record, "bob", DURATION_S, now + waited_s)) is None:
        waited_s += 0.5
    assert waited_s <= 2 * DURATION_S
    assert after.lease == Lease(holder="bob", token=8)


def test_a_lease_ends_when_its_time_is_over_and_not_before() -> None:
    record = LeaseRecord(holder="ann", token=7, renewed_s=1_000.0, duration_s=DURATION_S)
    assert taken(record, "bob", DURATION_S, 1_009.999) is None
    assert taken(record, "bob", DURATION_S, 1_010.0) is not None


def test_a_holder_that_renews_late_keeps_its_token_where_nobody_came_between() -> None:
    record = LeaseRecord(holder="ann", token=7, renewed_s=1_000.0, duration_s=DURATION_S)
    after = taken(record, "ann", 20.0, 5_000.0)
    assert after == LeaseRecord(holder="ann", token=7, renewed_s=5_000.0, duration_s=20.0)


def test_the_next_life_at_a_place_leads_at_once_and_fences_off_the_last_one() -> None:
    record = LeaseRecord(holder=holder_name("here", "1"), token=7, renewed_s=1_000.0, duration_s=DURATION_S)
    assert taken(record, holder_name("there", "2"), DURATION_S, 1_001.0) is None
    after = taken(record, holder_name("here", "2"), DURATION_S, 1_001.0)
    assert after is not None
    assert after.lease == Lease(holder="here#2", token=8)
