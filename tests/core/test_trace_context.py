"""Trace context: a child of the client's span, and nothing of what is not well-formed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.trace_context import child_lines, trace_id_of

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
PARENT = b"00-%b-%b-01" % (TRACE, SPAN)
CHILD = re.compile(rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r\n")


def lines(
    parent: bytes, state: bytes | None = None, *, digest_key: bytes | None = None, attempt: str = "r:1"
) -> bytes:
    headers = {b"traceparent": parent} | ({} if state is None else {b"tracestate": state})
    return child_lines(headers, attempt.partition(":")[0], attempt, digest_key)


def test_an_attempt_is_a_span_of_its_own_in_the_clients_trace():
    first, second = (CHILD.fullmatch(lines(PARENT, attempt=name)) for name in ("r:1", "r:2"))
    assert first
    assert second
    assert first[1] == second[1] == TRACE
    assert len({SPAN, first[2], second[2]}) == 3
    assert first[3] == b"01"


def test_flags_that_are_not_known_are_not_passed_on():
    for given_flags, sent in ((b"00", b"00"), (b"03", b"03"), (b"ff", b"03")):
        found = CHILD.fullmatch(lines(b"00-%b-%b-%b" % (TRACE, SPAN, given_flags)))
        assert found
        assert found[3] == sent


def test_a_later_version_is_read_as_the_first_one():
    for later in (b"01-%b-%b-01", b"cc-%b-%b-01-what-comes"):
        found = CHILD.fullmatch(lines(later % (TRACE, SPAN)))
        assert found
        assert found[1] == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        PARENT.upper(),
        PARENT[:-1],
        b"00-4111111111111111-%b-01" % SPAN,
        PARENT + b"\r\nx: y",
    ],
)
def test_what_is_no_traceparent_goes_nowhere_and_neither_does_its_state(parent: bytes):
    assert lines(parent, b"own=1") == b""


def test_tracestate_goes_only_where_it_may():
    assert lines(PARENT, b"own=1,other=2").endswith(b"\r\ntracestate: own=1,other=2\r\n")
    assert b"tracestate" not in lines(PARENT, b"own=1", digest_key=b"k")


def test_outside_a_trace_has_one_id_which_is_not_the_clients():
    first, second, third = (
        CHILD.fullmatch(lines(PARENT, attempt=attempt, digest_key=key))[1]  # type: ignore[index]
        for attempt, key in (("r:1", b"k"), ("s:1", b"k"), ("r:1", b"other"))
    )
    assert first == second != third
    assert TRACE not in {first, third}


def test_outside_a_trace_that_begins_here_keeps_its_id():
    own = trace_id_of("r")
    found = CHILD.fullmatch(lines(b"00-%b-%b-01" % (own, SPAN), digest_key=b"k"))
    assert found
    assert found[1] == own


@pytest.mark.parametrize("state", [b"", b"a=" + b"x" * 511, b"a=\xff", b"a=1\r\nx: y"])
def test_a_tracestate_that_is_not_well_formed_is_left_out(state: bytes):
    assert CHILD.fullmatch(lines(PARENT, state))


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_whatever_comes_there_are_only_whole_lines(parent: bytes, state: bytes):
    for written in lines(parent, state).split(b"\r\n")[:-1]:
        assert re.fullmatch(rb"trace(parent|state): [ -~]+", written)
