"""The body in a dialect: what is left out or changed, that all else stays, and that each change is told."""

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.outgoing import adapted, members_of, refused_members
from gateway.dialects.table import (
    DEVELOPER,
    EFFORTS,
    EXTENSIONS,
    LISTED,
    STEERING,
    TABLE,
    TREATED,
    UNKNOWN,
    MetadataRule,
    ServerDialect,
    Steering,
    StreamOptions,
    UnknownFields,
)

OPENAI, VLLM = TABLE["openai"], TABLE["vllm"]
dialects = st.sampled_from([*TABLE.values(), msgspec.structs.replace(VLLM, allows=STEERING)])


def sent(body: dict[str, Any], dialect: ServerDialect) -> tuple[dict[str, Any], tuple[str, ...]]:
    members = members_of(body)
    if any(message["role"] == "developer" for message in body.get("messages", ())):
        members |= {DEVELOPER}
    rest, changed = adapted(orjson.dumps(body), members, dialect)
    return orjson.loads(rest), changed


def with_(dialect: ServerDialect, **changes: Any) -> ServerDialect:
    return msgspec.structs.replace(dialect, **changes)


@given(
    st.dictionaries(st.sampled_from([*sorted(STEERING), "temperature", "user", "seed"]), st.integers(0, 9)),
    dialects,
)
def test_no_field_that_steers_goes_out_and_every_other_member_stays(
    body: dict[str, Any], dialect: ServerDialect
) -> None:
    got, changed = sent(body, dialect)
    held_back = (STEERING - dialect.allows) & body.keys()
    assert got == {name: value for name, value in body.items() if name not in held_back}
    assert changed == tuple(sorted(held_back))


@pytest.mark.parametrize("store", [None, False, "true", True])
def test_metadata_leaves_beside_store_alone(store: Any) -> None:
    body = {"metadata": {"a": "b"}, "store": store}
    assert ("metadata" in sent(body, OPENAI)[0]) is (store is True)
    assert "metadata" not in sent(body, with_(OPENAI, metadata=MetadataRule.NEVER))[0]
    assert "metadata" in sent(body, with_(OPENAI, metadata=MetadataRule.ALWAYS))[0]


def test_only_the_role_of_developers_changes() -> None:
    body = {"messages": [{"role": "developer", "content": "a"}, {"role": "user", "content": "developer"}]}
    got, changed = sent(body, VLLM)
    assert got["messages"] == [{"role": "system", "content": "a"}, {"role": "user", "content": "developer"}]
    assert changed == (DEVELOPER,)
    assert sent(body, OPENAI) == (body, ())


@pytest.mark.parametrize(
    ("wanted", "taken", "becomes"),
    [
        ("minimal", ("low", "high"), "low"),
        ("medium", ("low", "high"), "low"),  # the lesser of two
        ("max", EFFORTS[:-1], "xhigh"),
        ("none", ("low",), "low"),
        ("high", ("high",), "high"),
        ("high", None, "high"),
        ("default", ("low",), "default"),  # nobody knows it: for the server to judge
        ("high", (), None),
    ],
)
def test_an_effort_becomes_the_nearest_that_is_taken(
    wanted: str, taken: tuple[str, ...] | None, becomes: str | None
) -> None:
    got, changed = sent({"reasoning_effort": wanted}, with_(VLLM, efforts=taken))
    assert got.get("reasoning_effort") == becomes
    assert changed == (() if becomes == wanted else ("reasoning_effort",))


def test_refusing_them_names_the_fields_that_are_not_allowed() -> None:
    members = frozenset({"priority", "models", "metadata"})
    refusing = with_(VLLM, steering=Steering.REFUSE, allows=frozenset({"models"}))
    assert refused_members(members, refusing) == {"priority"}
    assert refused_members(members, VLLM) == frozenset()


# --- fields that nobody knows ---

UNHEARD = {"my_field": 1, "developer": 2, "unknown_fields": 3}


@pytest.mark.parametrize("dialect", TABLE.values())
def test_unknown_fields_pass_unless_it_is_said_otherwise(dialect: ServerDialect) -> None:
    body = {"temperature": 1, "top_k": 2, "safe_prompt": 3, **UNHEARD}
    assert sent(body, dialect) == (body, ())
    assert refused_members(members_of(body), dialect) == frozenset()


def test_dropped_is_what_a_provider_is_not_known_to_read_and_no_made_up_name_is_told() -> None:
    body = {"temperature": 1, "seed": 2, "top_k": 3, "safe_prompt": 4, **UNHEARD}
    dropping = {name: with_(row, unknown_fields=UnknownFields.DROP) for name, row in TABLE.items()}
    openai = {"temperature": 1, "seed": 2}
    assert sent(body, dropping["openai"]) == (openai, ("safe_prompt", "top_k", UNKNOWN))
    assert sent(body, dropping["vllm"]) == (openai | {"top_k": 3}, ("safe_prompt", UNKNOWN))
    compatible = openai | {"top_k": 3, "safe_prompt": 4}
    assert sent(body, dropping["openai-compatible"]) == (compatible, (UNKNOWN,))
    allowing = with_(dropping["openai"], allows=frozenset({"top_k"}))
    assert sent(body, allowing) == (openai | {"top_k": 3}, ("safe_prompt", UNKNOWN))


def test_refused_is_the_same() -> None:
    refusing = with_(OPENAI, unknown_fields=UnknownFields.REFUSE, allows=frozenset({"top_k"}))
    members = members_of(["temperature", "top_k", "min_p", *UNHEARD])
    assert refused_members(members, refusing) == {"min_p", UNKNOWN}
    assert refused_members(members_of(["temperature", "metadata", "priority"]), refusing) == frozenset()
    assert sent(UNHEARD, refusing) == (UNHEARD, ()), "it may only be refused"


@given(st.sets(st.text(max_size=12) | st.sampled_from(sorted(LISTED | EXTENSIONS | TREATED))))
def test_no_name_that_a_client_makes_up_is_kept(names: set[str]) -> None:
    told = members_of(names)
    assert told <= TREATED | EXTENSIONS | {UNKNOWN}
    assert (UNKNOWN in told) == bool(names - LISTED - EXTENSIONS - TREATED)


def test_the_lists_do_not_overlap() -> None:
    assert not EXTENSIONS & LISTED
    assert not EXTENSIONS & STEERING
    assert not STEERING & LISTED


# --- caps, and what is learned ---


def test_each_situation_has_its_own_spelling_of_the_cap() -> None:
    none, predicted = frozenset[str](), frozenset({"prediction"})
    assert OPENAI.cap_field("chat", none) == "max_completion_tokens"
    assert OPENAI.cap_field("chat", predicted) == "max_tokens"
    assert OPENAI.cap_field("completions", none) == "max_tokens"
    assert TABLE["openai-compatible"].cap_field("chat", none) == "max_tokens"
    assert all(row.cap_field("embeddings", none) is None for row in TABLE.values())


def test_a_refused_spelling_goes_behind_the_one_that_went_through() -> None:
    tried = OPENAI.without("max_completion_tokens", "chat")
    assert tried.caps["chat"] == ("max_tokens",)
    learned = OPENAI.learned(tried, "chat")
    assert learned.caps["chat"] == ("max_tokens", "max_completion_tokens")
    assert learned.caps["prediction"] == OPENAI.caps["prediction"]


def test_only_where_every_spelling_was_refused_none_is_honoured() -> None:
    tried = OPENAI.without("max_completion_tokens", "chat").without("max_tokens", "chat")
    assert OPENAI.learned(tried, "chat").cap_field("chat", frozenset()) is None


def test_what_two_requests_learned_at_once_is_kept_of_both() -> None:
    first = OPENAI.without("stream_options", "chat")
    second = OPENAI.without("max_completion_tokens", "chat")
    learned = OPENAI.learned(first, "chat").learned(second, "chat")
    assert learned.stream_options is StreamOptions.OMIT
    assert learned.cap_field("chat", frozenset()) == "max_tokens"
