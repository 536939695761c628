"""Control headers: what they say in any language, and that a mistake in one is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.call import MAX_TAG_LENGTH, MAX_TAGS
from gateway.core.control_headers import tags_in, wants_cost_event
from gateway.core.errors import InvalidRequest

NAMES = st.text(st.characters(exclude_characters=",=", exclude_categories=["Cs"]), min_size=1, max_size=40)
VALUES = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"]), max_size=40)


def refused(header: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        tags_in(header)
    assert caught.value.status == 400
    assert (caught.value.param, caught.value.code) == ("x-tollway-tags", "invalid_header")
    return caught.value.message


def test_tags_are_read_as_utf_8():
    assert tags_in("部署=研究開発, étape=brouillon".encode()) == {"部署": "研究開発", "étape": "brouillon"}


@given(st.dictionaries(NAMES.map(str.strip).filter(bool), VALUES.map(str.strip), max_size=MAX_TAGS))
def test_what_is_written_is_read(tags: dict[str, str]):
    assert tags_in(",".join(f"{name}={value}" for name, value in tags.items()).encode()) == tags


def test_a_value_may_be_empty_and_have_an_equals_sign_and_a_list_may_have_empty_elements():
    assert tags_in(b"") == {}
    assert tags_in(b"a=,, b = c=d ,") == {"a": "", "b": "c=d"}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"a=\xff\xfe", "not UTF-8"),
        ("é=1".encode("latin-1"), "not UTF-8"),
        (b"a=1,b", "tag 2 has no ="),
        (b"=1", "tag 1 has no name"),
        (b"a=1,a=2", "tag 2 has the name of one before it"),
        (b"a=" + b"x" * (MAX_TAG_LENGTH + 1), "longer than 512"),
        (b"x" * (MAX_TAG_LENGTH + 1) + b"=a", "longer than 512"),
        (b",".join(b"%d=x" % number for number in range(MAX_TAGS + 1)), "more than 16"),
    ],
)
def test_tags_that_cannot_be_read_are_refused_with_the_reason(header: bytes, says: str):
    assert says in refused(header)


@given(st.binary(max_size=200))
def test_any_header_is_tags_or_a_refusal(header: bytes):
    try:
        tags = tags_in(header)
    except InvalidRequest:
        return
    assert len(tags) <= MAX_TAGS


@pytest.mark.parametrize(("value", "wants"), [(b"true", True), (b" True ", True), (b"false", False)])
def test_a_cost_event_is_asked_for_by_true(value: bytes, wants: bool):
    assert wants_cost_event({b"x-tollway-cost-event": value}) is wants
    assert not wants_cost_event({})


@pytest.mark.parametrize("value", [b"", b"yes", b"1", b"\xff"])
def test_anything_else_about_a_cost_event_is_refused(value: bytes):
    with pytest.raises(InvalidRequest) as caught:
        wants_cost_event({b"x-tollway-cost-event": value})
    assert caught.value.param == "x-tollway-cost-event"
