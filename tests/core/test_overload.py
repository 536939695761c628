"""When an overload begins and ends, who may begin in it, and that batch goes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.overload import CALM_SECONDS, LEAST_SECONDS, TARGET_SECONDS, Overload, Priority

LONGEST = 0.25
BOTH = list(Priority)
INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH

seconds = st.floats(0.0, 10.0)


class Loop:
    """An event loop as `Overload` sees it: turns that take some time, all of it work."""

    def __init__(self) -> None:
        self.overload = Overload(LONGEST)
        self.now = 0.0

    def turn(self, length: float, *, worked: float | None = None) -> None:
        self.now += length
        self.overload.sample(length, length if worked is None else worked, self.now)

    def turns(self, length: float, lasting: float) -> None:
        until = self.now + lasting
        while self.now < until:
            self.turn(length)


def overloaded() -> Loop:
    loop = Loop()
    loop.turns(LONGEST * 2, LONGEST * 8)
    assert loop.overload.is_on
    return loop


def admitted(loop: Loop, priority: Priority, *, lasting: float) -> float:
    """How far into a turn requests of `priority` begin, after some time of short turns with many in each."""
    until = loop.now + lasting
    while loop.now < until:
        for step in range(300):
            loop.overload.admits(step * LEAST_SECONDS, priority)
        loop.turn(TARGET_SECONDS / 2)
    return sum(loop.overload.admits(step * LEAST_SECONDS, priority) for step in range(300)) * LEAST_SECONDS


@given(st.lists(st.tuples(seconds, seconds, st.sampled_from(BOTH)), max_size=50))
def test_all_begin_while_no_two_turns_are_long(turns: list[tuple[float, float, Priority]]) -> None:
    loop = Loop()
    for length, waited, priority in turns:
        loop.turn(length)
        assert loop.overload.admits(waited, priority)
        loop.turn(LONGEST)
    assert not loop.overload.is_on
    assert set(loop.overload.refused.values()) == {0}


@given(st.floats(LONGEST, 100.0, exclude_min=True))
def test_two_long_turns_in_a_row_are_an_overload(length: float) -> None:
    loop = Loop()
    loop.turn(length)
    assert not loop.overload.is_on
    loop.turn(length)
    assert loop.overload.is_on


@given(seconds)
def test_so_is_one_in_which_many_begin_and_that_goes_on(late: float) -> None:
    overload = Overload(LONGEST)
    overload.sample_within(late, 100.0)
    assert overload.is_on == (late > LONGEST)


@given(st.lists(st.tuples(seconds, seconds, st.sampled_from(BOTH)), max_size=200))
def test_some_begin_in_every_turn_whatever_happens(events: list[tuple[float, float, Priority]]) -> None:
    """And batch never where interactive may not."""
    loop = overloaded()
    for length, waited, priority in events:
        loop.turn(length)
        assert loop.overload.admits(0.0, INTERACTIVE)
        batch = loop.overload.admits(waited, BATCH)
        assert not batch or loop.overload.admits(waited, INTERACTIVE)
        loop.overload.admits(waited, priority)


@given(st.lists(st.tuples(seconds, st.sampled_from(BOTH)), max_size=100))
def test_it_ends_by_itself_when_the_load_has_gone(events: list[tuple[float, Priority]]) -> None:
    loop = overloaded()
    for length, priority in events:
        loop.overload.admits(length, priority)
        loop.turn(length)
    loop.turns(0.005, CALM_SECONDS + 1.0)
    assert not loop.overload.is_on
    assert all(loop.overload.admits(100.0, priority) for priority in BOTH)


def test_short_turns_do_not_end_it_while_requests_are_refused() -> None:
    loop = overloaded()
    for _ in range(100):
        assert not loop.overload.admits(1.0, INTERACTIVE)
        loop.turn(0.06)
        assert loop.overload.is_on


def test_a_refusal_of_batch_alone_holds_it_too() -> None:
    loop = overloaded()
    for _ in range(100):
        assert not loop.overload.admits(1.0, BATCH)
        loop.turn(0.06)
        assert loop.overload.is_on


def test_long_turns_leave_less_room_and_short_ones_more() -> None:
    loop = overloaded()
    wide = admitted(loop, INTERACTIVE, lasting=3.0)
    assert wide == pytest.approx(TARGET_SECONDS)
    loop.turns(TARGET_SECONDS * 5, 2.0)
    assert loop.overload.admits(LEAST_SECONDS / 2, INTERACTIVE)
    assert not loop.overload.admits(LEAST_SECONDS, INTERACTIVE)
    assert admitted(loop, INTERACTIVE, lasting=3.0) == wide


def test_a_machine_without_a_processor_to_spare_costs_no_room() -> None:
    """Turns take long, and little of it is work of ours: refusing more would change nothing."""
    loop = overloaded()
    wide = admitted(loop, INTERACTIVE, lasting=3.0)
    for _ in range(50):
        loop.overload.admits(10.0, INTERACTIVE)
        loop.turn(0.4, worked=TARGET_SECONDS / 2)
    assert loop.overload.admits(wide - LEAST_SECONDS, INTERACTIVE)


def test_batch_alone_has_half_of_the_room() -> None:
    assert admitted(overloaded(), BATCH, lasting=3.0) == pytest.approx(TARGET_SECONDS / 2)


def test_batch_has_nothing_while_interactive_requests_are_refused() -> None:
    loop = overloaded()
    admitted(loop, BATCH, lasting=3.0)
    admitted(loop, INTERACTIVE, lasting=1.0)
    assert not loop.overload.admits(0.0, BATCH)
    assert admitted(loop, BATCH, lasting=3.0) == pytest.approx(TARGET_SECONDS / 2)  # and again when it can


def test_refusals_are_counted_by_priority() -> None:
    loop = overloaded()
    before = dict(loop.overload.refused)
    for priority, times in ((INTERACTIVE, 2), (BATCH, 3)):
        for _ in range(times):
            loop.overload.admits(1.0, priority)
    assert {one: count - before[one] for one, count in loop.overload.refused.items()} == {
        INTERACTIVE: 2,
        BATCH: 3,
    }
