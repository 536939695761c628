"""A request body is parsed once into facts, and what goes upstream is written from what was parsed."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.call import BYTES_PER_TOKEN, MAX_TAGS, Call
from gateway.core.catalog import Api, Capability, Modality
from gateway.core.errors import InvalidRequest
from gateway.core.facts import prompt_tokens
from gateway.core.media import Media
from gateway.core.parse import MAX_CHOICES, parse_call
from gateway.core.sent import encode_call
from gateway.dialects.table import TABLE
from tests.core.builders import chat, parsed, parsed_with_body

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 78}}  # 100 characters
REWRITTEN = {"model", "stream_options", "max_tokens", "max_completion_tokens"}


def refused(body: Any, api: Api = Api.CHAT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parsed(body, api)
    return caught.value


def encoded(call: Call, model: str, cap: int) -> bytes:
    return encode_call(call, model, TABLE["openai"], cap, call.rest)


def forwarded(body: Any, api: Api = Api.CHAT, cap: int = 50) -> dict[str, Any]:
    return json.loads(encoded(parsed(body, api), "upstream-name", cap))


# --- facts ---


def test_a_plain_request_has_one_choice_of_text_and_no_cap():
    call = parsed(chat("Hello"))
    assert (call.api, call.model, call.stream, call.include_usage) == (Api.CHAT, "auto", False, False)
    assert (call.max_output, call.choices, call.service_tier) == (None, 1, None)
    assert call.modalities == {Modality.TEXT}
    assert call.needs == frozenset()
    assert call.media == Media()
    assert call.tags == {}


def test_stream_and_service_tier_are_read():
    call = parsed(chat(stream=True, service_tier="priority"))
    assert call.stream
    assert call.service_tier == "priority"


def test_a_null_member_counts_as_missing():
    call = parsed(chat(stream=None, n=None, max_tokens=None, service_tier=None, tools=None, metadata=None))
    assert (call.stream, call.choices, call.max_output, call.service_tier) == (False, 1, None, None)


@pytest.mark.parametrize("asked", [True, False])
def test_include_usage_is_taken_out_of_the_stream_options_and_remembered(asked: bool):
    options = {"include_usage": asked, "include_obfuscation": False}
    call = parsed(chat(stream=True, stream_options=options))
    assert call.include_usage is asked
    assert call.stream_options == {"include_obfuscation": False}


def test_a_stream_without_stream_options_did_not_ask_for_usage():
    assert not parsed(chat(stream=True)).include_usage
    assert not parsed(chat(stream=True, stream_options={})).include_usage


@pytest.mark.parametrize(
    ("caps", "least"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 7),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
        ({"max_tokens": None, "max_completion_tokens": 7}, 7),
    ],
)
def test_the_output_cap_is_read_under_both_names_and_the_smaller_one_holds(caps: dict[str, int], least: int):
    assert parsed(chat(**caps)).max_output == least


@pytest.mark.parametrize(
    ("members", "choices"), [({"n": 3}, 3), ({"best_of": 5}, 5), ({"n": 2, "best_of": 4}, 4)]
)
def test_the_larger_of_n_and_best_of_is_generated_and_billed(members: dict[str, int], choices: int):
    assert parsed(chat(**members)).choices == choices


@pytest.mark.parametrize(
    ("prompt", "choices"),
    [
        ("a", 2),
        (["a", "b", "c"], 6),
        ([["a"]], 2),
        ([1, 2, 3], 2),
        ([[1, 2], [3, 4]], 4),
    ],
)
def test_each_prompt_of_a_list_is_answered_n_times_and_token_ids_are_one_prompt(prompt: Any, choices: int):
    body = {"model": "m", "prompt": prompt, "n": 2}
    assert parsed(body, Api.COMPLETIONS).choices == choices


def test_embeddings_of_a_list_have_no_choices_and_no_cap():
    call = parsed({"model": "m", "input": ["a", "b"], "max_tokens": 5}, Api.EMBEDDINGS)
    assert call.choices == 1
    assert call.max_output is None


@pytest.mark.parametrize(
    ("part", "modality"),
    [
        ({"type": "text", "text": "a"}, Modality.TEXT),
        ({"type": "input_text", "text": "a"}, Modality.TEXT),
        ({"type": "output_text", "text": "a"}, Modality.TEXT),
        ({"type": "refusal", "refusal": "a"}, Modality.TEXT),
        (IMAGE, Modality.IMAGE),
        ({"type": "input_image", "image_url": "https://x/y.png"}, Modality.IMAGE),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, Modality.AUDIO),
        ({"type": "audio_url", "audio_url": {"url": "https://x/y.wav"}}, Modality.AUDIO),
        ({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}, Modality.VIDEO),
        ({"type": "input_video", "input_video": {"url": "https://x/y.mp4"}}, Modality.VIDEO),
        ({"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}}, Modality.FILE),
        ({"type": "input_file", "file_data": "AAAA"}, Modality.FILE),
    ],
)
def test_each_kind_of_content_part_has_its_modality(part: dict[str, Any], modality: Modality):
    assert parsed(chat([part])).modalities == {Modality.TEXT, modality}


def test_an_answer_in_audio_needs_a_deployment_for_audio():
    assert parsed(chat("Hi", modalities=["text", "audio"])).modalities == {Modality.TEXT, Modality.AUDIO}
    assert parsed(chat("Hi", modalities=["text"])).modalities == {Modality.TEXT}


@pytest.mark.parametrize("kind", ["tool_result", "", "IMAGE_URL", None, 3, ["text"], {"type": "text"}])
def test_an_unknown_kind_of_part_is_refused_because_it_could_carry_anything(kind: Any):
    error = refused(chat([{"type": "text", "text": "a"}, {"type": kind, "blob": "x"}]))
    assert error.param == "messages[0].content[1].type"
    assert error.code == "invalid_value"


def test_media_are_counted_by_detail_and_by_bytes():
    low = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    low_of_responses = {"type": "input_image", "image_url": "data:,AAAAAAAAAAAAA", "detail": "low"}
    audio = {"type": "input_audio", "input_audio": {"data": "A" * 300, "format": "wav"}}
    document = {"type": "file", "file": {"file_data": "B" * 500, "filename": "a.pdf"}}
    media = parsed(chat([IMAGE, low, low_of_responses, audio, document])).media
    assert (media.images_low, media.images_high) == (2, 1)
    assert (media.audio_bytes, media.file_bytes) == (300, 500)
    assert media.bytes == 100 + 26 + 19 + 300 + 500


def test_media_do_not_count_as_text():
    without, with_image = parsed(chat([{"type": "text", "text": "a"}])), parsed(chat([IMAGE]))
    assert with_image.text_bytes < without.text_bytes + 80
    assert with_image.text_bytes == len(with_image.rest) - 100


def test_prompt_tokens_are_estimated_from_the_bytes_of_text():
    call = parsed(chat("x" * 4000))
    assert prompt_tokens(call) == call.text_bytes // BYTES_PER_TOKEN + 1
    assert 1000 < prompt_tokens(call) < 1020


@pytest.mark.parametrize(
    ("members", "needs"),
    [
        ({"tools": [{"type": "function"}]}, {Capability.TOOLS}),
        ({"functions": [{"name": "f"}]}, {Capability.TOOLS, Capability.FUNCTIONS}),
        ({"function_call": "auto"}, {Capability.TOOLS, Capability.FUNCTIONS}),
        (
            {"tools": [{"type": "custom", "custom": {"name": "f"}}]},
            {Capability.TOOLS, Capability.CUSTOM_TOOLS},
        ),
        ({"tools": [{"type": "web_search_preview"}]}, {Capability.TOOLS, Capability.WEB_SEARCH}),
        ({"web_search_options": {}}, {Capability.WEB_SEARCH}),
        ({"search_parameters": {"mode": "auto"}}, {Capability.WEB_SEARCH}),
        ({"enable_search": True}, {Capability.WEB_SEARCH}),
        ({"enable_search": False}, set()),
        ({"modalities": ["text", "audio"]}, {Capability.AUDIO_OUTPUT}),
        ({"audio": {"voice": "alloy", "format": "wav"}}, {Capability.AUDIO_OUTPUT}),
        ({"modalities": ["text"]}, set()),
        ({"tools": []}, set()),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {Capability.JSON_SCHEMA}),
        ({"response_format": {"type": "json_object"}}, set()),
        ({"logprobs": True}, {Capability.LOGPROBS}),
        ({"logprobs": False}, set()),
        (
            {"tools": [{}], "response_format": {"type": "json_schema"}, "logprobs": True},
            {Capability.TOOLS, Capability.JSON_SCHEMA, Capability.LOGPROBS},
        ),
    ],
)
def test_needs_are_read_from_tools_response_format_and_logprobs(members: Any, needs: set[Capability]):
    assert parsed(chat(**members)).needs == needs


def test_metadata_become_tags_within_bounds():
    metadata = {f"k{number}": "v" for number in range(40)} | {"long": "v"}
    assert len(parsed(chat(metadata=metadata)).tags) == MAX_TAGS
    tags = parsed(chat(metadata={"ticket": "A-1", "number": 3, "long": "v" * 1000, "l" * 1000: "x"})).tags
    assert tags["ticket"] == "A-1"
    assert "number" not in tags
    assert len(tags["long"]) == 512
    assert "l" * 512 in tags


# --- refusals ---


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"model": ["auto"]}, "model"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "no"}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "100"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": [1]}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": "x"}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": MAX_CHOICES + 1}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 0}, "best_of"),
        ({"best_of": MAX_CHOICES + 1}, "n"),
        ({"service_tier": 1}, "service_tier"),
        ({"tools": {"a": 1}}, "tools"),
        ({"tools": "x"}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"metadata": ["a"]}, "metadata"),
        ({"metadata": "a"}, "metadata"),
        ({"messages": None}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ],
)
def test_a_wrong_type_is_refused_with_the_field_at_fault(members: dict[str, Any], param: str):
    error = refused(chat(**members))
    assert error.param == param
    assert error.status == 400


@pytest.mark.parametrize("prompt", [None, "", [], 5, {"a": 1}])
@pytest.mark.parametrize(("api", "name"), [(Api.COMPLETIONS, "prompt"), (Api.EMBEDDINGS, "input")])
def test_a_missing_prompt_or_input_is_refused(api: Api, name: str, prompt: Any):
    assert refused({"model": "m", name: prompt}, api).param == name


def test_embeddings_do_not_stream():
    assert refused({"model": "m", "input": "a", "stream": True}, Api.EMBEDDINGS).param == "stream"


def test_too_many_messages_are_refused():
    messages = [{"role": "user", "content": "x"}] * 3
    assert parsed({"model": "m", "messages": messages}, max_messages=3)
    with pytest.raises(InvalidRequest) as caught:
        parsed({"model": "m", "messages": messages}, max_messages=2)
    assert caught.value.code == "array_above_max_length"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"3",
        b'{"model": "m",}',
        b"\xff\xfe{}",
        b'{"model": "\\ud800"}',
        b'{"model": "m", "x": 1e999}',
        b"[" * 5000,
        b'{"x":' * 5000,
    ],
)
def test_what_is_not_one_json_object_in_utf_8_is_refused_as_such(raw: bytes):
    assert refused(raw).code == "invalid_json"


@pytest.mark.parametrize("depth", [200, 250, 252, 253, 254, 255, 300, 600, 1000])
@pytest.mark.parametrize("place", ["metadata_of_mine", "stream_options"])
def test_nesting_is_forwarded_or_refused_but_never_breaks_the_encoding(place: str, depth: int):
    nested: Any = b"[" * depth + b"]" * depth
    value = nested if place == "metadata_of_mine" else b'{"deep":' + nested + b"}"
    raw = orjson.dumps(chat(stream=True))[:-1] + b',"' + place.encode() + b'":' + value + b"}"
    try:
        call = parsed(raw)
    except InvalidRequest as error:
        assert error.code == "invalid_json"
    else:
        assert encoded(call, "m", 1).count(b"[") >= depth


# --- what goes upstream ---


def test_the_upstream_is_asked_for_its_own_model_name_and_the_cap_that_is_held():
    sent = forwarded(chat(max_tokens=70, temperature=0.5))
    assert sent["model"] == "upstream-name"
    assert sent["max_completion_tokens"] == 50
    assert "max_tokens" not in sent
    assert sent["temperature"] == 0.5


def test_no_cap_is_written_where_the_upstream_takes_none():
    call = parsed({"model": "m", "input": "a"}, Api.EMBEDDINGS)
    assert json.loads(encoded(call, "u", 0)) == {"model": "u", "input": "a"}


def test_a_stream_always_asks_for_usage_and_keeps_the_other_options():
    sent = forwarded(chat(stream=True, stream_options={"include_usage": False, "x": [1]}))
    assert sent["stream_options"] == {"include_usage": True, "x": [1]}
    assert "stream_options" not in forwarded(chat())


def test_of_a_duplicated_key_the_last_value_is_parsed_and_the_same_one_is_forwarded():
    raw = (
        b'{"model":"cheap","model":"auto","max_tokens":1,"max_tokens":9,"n":100,"n":2,'
        b'"messages":[{"role":"user","content":"secret","content":"public"}],'
        b'"messages":[{"role":"user","content":"first"}],"stream":true,"stream":false}'
    )
    call = parsed(raw)
    assert (call.model, call.max_output, call.choices, call.stream) == ("auto", 9, 2, False)
    pairs = json.loads(encoded(call, call.model, 9), object_pairs_hook=list)
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys))
    assert dict(pairs)["n"] == 2
    assert dict(dict(pairs)["messages"][0])["content"] == "first"
    assert b"secret" not in call.rest


def test_duplicated_keys_inside_a_message_are_forwarded_as_parsed():
    raw = b'{"model":"m","messages":[{"role":"user","content":"one","content":"two"}]}'
    call, body = parsed_with_body(raw)
    assert body["messages"][0]["content"] == "two"
    assert b"one" not in call.rest


def test_escaped_names_are_the_names_that_they_spell():
    call = parsed(
        b'{"\\u006dodel":"m","max\\u005ftokens":3,"messages":[{"role":"user","content":"\\u0040"}]}'
    )
    assert (call.model, call.max_output) == ("m", 3)
    assert b"\\u0040" not in call.rest


# Beyond 64 bits a whole number is read as the nearest float, as JavaScript does.
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
# A Python str can hold half a surrogate pair, which UTF-8 cannot.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
known_members = st.fixed_dictionaries(
    {},
    optional={
        "stream": st.booleans(),
        "n": st.integers(1, 5),
        "max_tokens": st.integers(1, 10**6),
        "max_completion_tokens": st.integers(1, 10**6),
        "service_tier": texts,
        "metadata": st.dictionaries(texts, texts, max_size=3),
        "tools": st.lists(st.dictionaries(texts, values, max_size=3), max_size=3),
        "temperature": st.floats(0, 2),
    },
)
messages = st.lists(
    st.fixed_dictionaries({"role": texts, "content": texts | st.none()}, optional={"name": values}),
    min_size=1,
    max_size=4,
)
READ_NAMES = {
    *REWRITTEN,
    "stream",
    *("messages", "n", "best_of", "service_tier", "metadata", "tools", "functions", "response_format"),
    *("logprobs", "modalities"),
}
unknown_members = st.dictionaries(texts.filter(lambda name: name not in READ_NAMES), values, max_size=5)


@given(model=texts.filter(bool), said=messages, known=known_members, unknown=unknown_members)
def test_what_goes_upstream_is_the_clients_body_but_for_model_caps_and_stream_options(
    model: str, said: Any, known: dict[str, Any], unknown: dict[str, Any]
):
    body = {"model": model, "messages": said, **known, **unknown}
    if body.get("stream"):
        body["stream_options"] = {"include_obfuscation": True}
    sent = json.loads(encoded(parsed(body), "upstream", 77))
    assert sent.pop("model") == "upstream"
    assert sent.pop("max_completion_tokens") == 77
    options = sent.pop("stream_options", None)
    assert options == ({"include_obfuscation": True, "include_usage": True} if body.get("stream") else None)
    assert sent == {name: value for name, value in body.items() if name not in REWRITTEN}


@given(raw=st.binary(max_size=200) | values.map(orjson.dumps), api=st.sampled_from(Api))
def test_arbitrary_bytes_are_parsed_or_refused_but_nothing_else(raw: bytes, api: Api):
    try:
        parse_call(api, raw, 5)
    except InvalidRequest as error:
        assert error.message


@given(
    members=st.dictionaries(
        st.sampled_from([*sorted(READ_NAMES), "prompt", "input"]),
        values | st.lists(st.fixed_dictionaries({"role": texts, "content": values}), max_size=2),
        max_size=8,
    ),
    api=st.sampled_from(Api),
)
def test_known_names_with_any_values_are_parsed_or_refused_but_nothing_else(members: Any, api: Api):
    raw = orjson.dumps({"model": "m", **members})
    try:
        call, _ = parse_call(api, raw, 5)
    except InvalidRequest:
        return
    assert json.loads(encoded(call, "u", 1))["model"] == "u"


# --- numbers ---


@pytest.mark.parametrize("name", ["seed", "logit_bias", "metadata", "stop_token_ids"])
def test_an_integer_that_would_reach_the_upstream_as_another_number_is_refused(name: str):
    value = {"seed": "%s", "stop_token_ids": "[[%s]]"}.get(name, '{"a": %s}') % (2**64 + 1)
    raw = orjson.dumps(chat())[:-1] + f',"{name}":{value}}}'.encode()
    with pytest.raises(InvalidRequest) as caught:
        parsed(raw)
    assert caught.value.param == name


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 0.7, 1e18, 1e300])
def test_every_other_number_goes_on_as_it_came(number: float):
    assert orjson.loads(parsed(chat(seed=number)).rest)["seed"] == number


# --- addresses ---


@pytest.mark.parametrize(
    ("part", "is_remote"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, False),
        ({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,AAAA"}}, False),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, True),
        ({"type": "image_url", "image_url": {"url": " http://169.254.169.254/latest"}}, True),
        ({"type": "image_url", "image_url": {"url": "HTTP:/metadata"}}, True),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, True),
        ({"type": "image_url", "image_url": "http://10.0.0.1/"}, True),
        ({"type": "input_image", "image_url": "http://10.0.0.1/"}, True),
        ({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}, False),
        ({"type": "audio_url", "audio_url": {"url": "http://10.0.0.1/a.wav"}}, True),
        ({"type": "video_url", "video_url": {"url": "http://10.0.0.1/a.mp4"}}, True),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, False),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}, False),
        ({"type": "file", "file": {"file_url": "http://10.0.0.1/a.pdf"}}, True),
        ({"type": "input_file", "file_url": "http://10.0.0.1/a.pdf"}, True),
        ({"type": "text", "text": "see https://example.com/a.png"}, False),
    ],
    ids=lambda item: orjson.dumps(item).decode() if isinstance(item, dict) else str(item),
)
def test_content_that_is_named_by_an_address_is_told_from_content_that_is_there(part: Any, is_remote: bool):
    assert parsed(chat([{"type": "text", "text": "look"}, part])).media.is_remote is is_remote
