"""An answer that did not stream: what was used, whether it is one, and errors in any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answer import ErrorInstead, read_answer, usage_from_wire
from gateway.core.errors import FailureKind, UpstreamFailure


def test_a_chat_completion_tells_its_usage_model_and_tier():
    answer = read_answer(
        b'{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o-2024-11-20","service_tier":"default",'
        b'"choices":[{"index":0,"message":{"content":"Hi","tool_calls":null},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}'
    )
    assert (answer.model, answer.service_tier, answer.finish_reason) == (
        "gpt-4o-2024-11-20",
        "default",
        "stop",
    )
    assert answer.usage is not None
    assert usage_from_wire(answer.usage).output_tokens == 2


def test_an_embedding_has_usage_and_no_choices():
    answer = read_answer(
        b'{"object":"list","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":5,"total_tokens":5}}'
    )
    assert answer.finish_reason is None
    assert answer.usage is not None
    assert usage_from_wire(answer.usage).input_tokens == 5


@pytest.mark.parametrize("body", [b'{"choices":[]}', b'{"usage":null,"choices":null,"model":null}', b"{}"])
def test_an_answer_may_leave_everything_out(body: bytes):
    answer = read_answer(body)
    assert answer.usage is None
    assert answer.finish_reason is None


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"[]", b'"ok"', b"null", b'{"choices":', b'{"model":"\xff"}']
)
def test_what_is_no_json_object_is_no_answer(body: bytes):
    with pytest.raises(UpstreamFailure) as caught:
        read_answer(body)
    assert caught.value.kind is FailureKind.BODY
    assert not caught.value.never_sent


USAGE = b'"usage":{"prompt_tokens":9,"completion_tokens":2}'


@pytest.mark.parametrize(
    "odd",
    [
        b'"id":5',
        b'"model":7',
        b'"model":["x"]',
        b'"service_tier":{"name":"flex"}',
        b'"choices":5',
        b'"choices":[5,"x",null]',
        b'"choices":[{"index":"0","finish_reason":3}]',
        b'"error":{}',
    ],
)
def test_an_answer_is_one_however_odd_what_is_only_observed(odd: bytes):
    answer = read_answer(b"{" + odd + b"," + USAGE + b"}")
    assert answer.finish_reason is None
    assert answer.usage is not None
    assert usage_from_wire(answer.usage).input_tokens == 9


def test_counts_may_be_written_as_fractions_without_a_fraction():
    answer = read_answer(b'{"usage":{"prompt_tokens":12.0,"completion_tokens":3e0}}')
    assert answer.usage is not None
    used = usage_from_wire(answer.usage)
    assert (used.input_tokens, used.output_tokens) == (12, 3)
    assert isinstance(used.input_text, int)


@pytest.mark.parametrize("usage", [b"5", b'"many"', b'{"prompt_tokens":"many"}', b"[1]"])
def test_usage_that_cannot_be_read_is_as_good_as_none(usage: bytes):
    answer = read_answer(b'{"choices":[{"finish_reason":"stop"}],"usage":' + usage + b"}")
    assert answer.usage is None
    assert answer.finish_reason == "stop"


def test_an_aborted_generation_is_a_failure_even_with_status_200():
    with pytest.raises(UpstreamFailure) as caught:
        read_answer(b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"abort"}]}')
    assert caught.value.kind is FailureKind.ABORTED


@given(st.binary(max_size=100))
def test_any_bytes_are_an_answer_or_a_failure(body: bytes):
    try:
        read_answer(body)
    except ErrorInstead:
        assert b"error" in body
    except UpstreamFailure as failure:
        assert failure.kind is FailureKind.BODY


ERRORS_UNDER_200 = [
    b'{"error":{"message":"no","type":"server_error","param":null,"code":null}}',
    b'{"error":"no such thing"}',
    b'{"error":{"message":"no"},"choices":[]}',
    b'{"error":{"message":"no"},"choices":[{"index":0,"finish_reason":"error"}]}',
    b'{"id":"x","choices":null,"error":{"code":502,"message":"Provider returned error"}}',
    b'{"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}',
    b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    b'{"type":"error","message":"no"}',
]
NO_ERRORS = [
    b'{"error":null,"choices":[{"index":0,"finish_reason":"stop"}]}',
    b'{"error":"","choices":[{"index":0,"finish_reason":"stop"}]}',
    b'{"error":false,"choices":[{"index":0,"finish_reason":"length"}]}',
    b'{"error":{"message":"logging failed"},"choices":[{"index":0,"finish_reason":"stop"}]}',
    b'{"choices":[],"object":"chat.completion"}',
    b'{"object":"list","data":[],"usage":{"prompt_tokens":5}}',
]


@pytest.mark.parametrize("body", ERRORS_UNDER_200)
def test_an_error_in_place_of_an_answer_is_no_answer(body: bytes):
    with pytest.raises(ErrorInstead) as caught:
        read_answer(body)
    assert caught.value.body == body


@pytest.mark.parametrize("body", NO_ERRORS)
def test_an_answer_that_came_whole_is_one_whatever_stands_in_error(body: bytes):
    read_answer(body)


@pytest.mark.parametrize(
    ("kind", "is_timeout", "never_sent"),
    [
        (FailureKind.CONNECT, False, True),
        (FailureKind.ZONE, False, True),
        (FailureKind.CONNECT_TIMEOUT, True, True),
        (FailureKind.FIRST_BYTE_TIMEOUT, True, False),
        (FailureKind.BETWEEN_BYTES_TIMEOUT, True, False),
        (FailureKind.TOTAL_TIMEOUT, True, False),
        (FailureKind.RESET, False, False),
        (FailureKind.PROTOCOL, False, False),
        (FailureKind.GATEWAY_TIMEOUT, True, False),
        (FailureKind.STATUS, False, False),
        (FailureKind.REFUSED, False, False),
        (FailureKind.ACCOUNT, False, False),
        (FailureKind.BUSY, False, False),
        (FailureKind.BODY, False, False),
        (FailureKind.ABORTED, False, False),
        (FailureKind.SILENT, False, False),
    ],
)
def test_each_failure_says_whether_it_was_sent_and_whether_it_was_too_late(
    kind: FailureKind, is_timeout: bool, never_sent: bool
):
    failure = UpstreamFailure(kind, "detail")
    assert (failure.is_timeout, failure.never_sent) == (is_timeout, never_sent)
    assert str(failure) == f"{kind}: detail"


def test_every_kind_of_failure_is_specified_here():
    assert len(FailureKind) == 16
