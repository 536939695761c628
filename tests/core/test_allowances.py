"""Allowances by name, in tables that cannot grow."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.allowances import Allowances, BoundedEvents

NOW = 1000.0


def test_an_allowance_may_be_used_at_once_and_then_comes_back_evenly():
    subject = Allowances(30)
    for _ in range(30):
        assert subject.wait_seconds("one", NOW) == 0
        subject.take("one", NOW)
    assert subject.wait_seconds("one", NOW) == 2.0
    assert subject.wait_seconds("other", NOW) == 0
    assert subject.wait_seconds("one", NOW + 2.0) == 0


def test_a_scan_of_names_takes_no_more_memory_and_forgets_who_came_longest_ago():
    subject = Allowances(1, most_names=100)
    for number in range(100_000):
        subject.take(number, NOW)
        assert len(subject) <= 100
    assert subject.wait_seconds(99_999, NOW) > 0
    assert subject.wait_seconds(99_900, NOW) > 0
    assert subject.wait_seconds(99_899, NOW) == 0


def test_a_name_that_comes_again_and_again_outlasts_a_scan_slower_than_itself():
    subject = Allowances(1, most_names=100)
    for number in range(1_000):
        subject.take(number, NOW)
        if number % 50 == 0:
            subject.take("again", NOW)
    assert subject.wait_seconds("again", NOW) > 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 3)), max_size=300))
def test_every_event_is_told_or_counted_by_the_next_one_of_its_kind(events: list[tuple[str, float]]):
    subject, now = BoundedEvents(of_each=5, of_all=12), NOW
    told = dict.fromkeys("abcdef", 0)
    for kind, seconds in events:
        now += seconds
        left_out = subject.admit(kind, now)
        if left_out is not None:
            told[kind] += 1 + left_out
    later = now + 120.0
    for kind in "abcdef":
        left_out = subject.admit(kind, later)
        assert left_out is not None
        assert told[kind] + left_out == sum(kind == one for one, _ in events)


def test_one_kind_leaves_room_for_others_and_all_together_have_a_bound():
    subject = BoundedEvents(of_each=5, of_all=12)
    told = [kind for kind in "aaaaaaaaabbbbbbbbbccccccccc" if subject.admit(kind, NOW) is not None]
    assert told == list("aaaaabbbbbcc")
    assert subject.admit("a", NOW + 60.0) == 4


def test_of_many_kinds_that_are_left_out_a_bounded_number_is_counted():
    subject = BoundedEvents(of_each=1, of_all=1, most_kinds=10)
    for number in range(1_000):
        subject.admit(number, NOW)
    assert subject.admit(999, NOW + 60.0) == 1
    assert subject.admit(989, NOW + 120.0) == 0
