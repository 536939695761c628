"""Counting tokens of text, images and audio, and making values that fit a schema: pure functions."""

import base64
import os
import struct
import subprocess
import sys
from random import Random

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulators.media import (
    UnreadableMedia,
    audio_tokens,
    image_size,
    llama4_image_tokens,
    openai_image_tokens,
)
from gateway.simulators.prefix_cache import PrefixCache
from gateway.simulators.schemas import sample
from gateway.simulators.tokens import SimulatorTokenizer, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> SimulatorTokenizer:
    return load_tokenizer()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


def jpeg(width: int, height: int, *, leading: int = 0) -> bytes:
    segment = b"\xff\xe1" + struct.pack(">H", 65_000) + bytes(64_998)
    frame = b"\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width) + bytes(10)
    return b"\xff\xd8" + segment * leading + frame


def webp(form: bytes, rest: bytes) -> bytes:
    return b"RIFF\x00\x00\x00\x00WEBP" + form + struct.pack("<I", len(rest)) + rest


def wav(seconds: float, *, data_length: int | None = None) -> bytes:
    content = bytes(int(seconds * 48_000))
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24_000, 48_000, 2, 16)
    length = len(content) if data_length is None else data_length
    return b"RIFF\x00\x00\x00\x00WAVE" + form + b"data" + struct.pack("<I", length) + content


def test_text_counts_are_o200k(tokenizer):
    assert tokenizer.count("") == 0
    assert tokenizer.count("hello world") == 2
    assert list(tokenizer.ids("hello world")) == [24912, 2375]
    assert tokenizer.count("<|endoftext|>") > 1  # never a special token


def test_loading_needs_neither_the_network_nor_litellm_nor_a_lasting_variable():
    script = (
        "import os, socket, sys\n"
        "socket.socket.connect = None\n"
        "from gateway.simulators.tokens import load_tokenizer\n"
        "load_tokenizer()\n"
        "assert 'litellm' not in sys.modules\n"
        "assert os.environ.get('TIKTOKEN_CACHE_DIR') == 'mine'\n"
    )
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": "mine"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_pieces_are_whole_characters_and_add_up(tokenizer, text):
    pieces = tokenizer.pieces(text)
    assert "".join(chars for chars, _ in pieces) == text
    assert sum(tokens for _, tokens in pieces) == tokenizer.count(text)
    assert all(chars for chars, _ in pieces)


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (png(640, 480), (640, 480)),
        (jpeg(1000, 500), (1000, 500)),
        (jpeg(1000, 500, leading=2), (1000, 500)),  # a large EXIF block first
        (b"GIF89a" + struct.pack("<HH", 30, 20), (30, 20)),
        (
            webp(b"VP8X", b"\x00" * 4 + (1199).to_bytes(3, "little") + (799).to_bytes(3, "little")),
            (1200, 800),
        ),
        (webp(b"VP8L", b"\x2f" + struct.pack("<I", 99 | 49 << 14) + bytes(8)), (100, 50)),
        (webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a" + struct.pack("<HH", 320, 240)), (320, 240)),
    ],
)
def test_sizes_are_read_from_headers(content, size):
    assert image_size(data_url(content)) == size


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,",
        "data:image/png;base64,A",
        data_url(b"hello"),
        data_url(png(0, 5)),
        data_url(b"\xff\xd8\xff"),
    ],
)
def test_unreadable_images_are_refused(url):
    with pytest.raises(UnreadableMedia):
        image_size(url)


def test_remote_images_are_not_fetched():
    assert image_size("https://example.com/a.png") == (1024, 1024)


@pytest.mark.parametrize(
    ("size", "detail", "model", "tokens"),
    [
        ((1024, 1024), "high", "gpt-4o", 765),
        ((1024, 1024), "auto", "gpt-4o", 765),
        ((2048, 4096), "high", "gpt-4o", 1105),
        ((4096, 8192), "low", "gpt-4o", 85),
        ((100, 100), "high", "gpt-4o", 255),  # small images are not enlarged
        ((512, 512), "high", "gpt-4o", 255),
        ((513, 512), "high", "gpt-4o", 425),
        ((1024, 1024), "high", "gpt-4o-mini-2024-07-18", 2833 + 4 * 5667),
        ((1024, 1024), "low", "gpt-4o-mini", 2833),
    ],
)
def test_openai_tiles(size, detail, model, tokens):
    assert openai_image_tokens(size, detail, model) == tokens


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((1, 1), 147),
        ((336, 336), 147),
        ((672, 672), 145 * 4 + 147),
        ((337, 336), 145 * 2 + 147),
        ((672, 336), 145 * 2 + 147),
        ((1008, 336), 145 * 3 + 147),
        ((4000, 4000), 145 * 16 + 147),
        ((10_000, 100), 145 * 16 + 147),
    ],
)
def test_llama_4_tiles(size, tokens):
    assert llama4_image_tokens(size) == tokens


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_llama_4_never_takes_more_than_16_tiles(width, height):
    assert 147 <= llama4_image_tokens((width, height)) <= 145 * 16 + 147


def test_audio_is_ten_tokens_a_second():
    def tokens(content: bytes, form: str = "wav") -> int:
        return audio_tokens({"data": base64.b64encode(content).decode(), "format": form})

    assert tokens(wav(3)) == 30
    assert tokens(wav(0.01)) == 1
    assert tokens(wav(2, data_length=0xFFFFFFFF)) == 20  # a streamed WAV does not know its length
    assert tokens(bytes(32_000), "mp3") == 20
    with pytest.raises(UnreadableMedia):
        audio_tokens({"data": "A"})


def test_prefix_cache_forgets_the_least_recently_used():
    from array import array

    cache = PrefixCache(minimum_tokens=4, block_tokens=4, capacity_blocks=2)
    first, second = array("I", range(8)), array("I", range(100, 108))
    assert [cache.visit(first), cache.visit(first)] == [0, 8]
    assert [cache.visit(second), cache.visit(first)] == [0, 0]
    assert cache.visit(array("I", [0, 1, 2])) == 0


SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "string", "format": "date-time"}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", "y", "z"]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "items": {"type": "string"}, "minItems": 6, "maxItems": 7, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
    {"type": "number", "minimum": 0.2, "maximum": 0.8},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 50, "maximum": 60},
    {"type": "integer", "exclusiveMaximum": -5},
    {"type": "string", "minLength": 40, "maxLength": 45},
    {"type": "string", "pattern": r"^\d{3}-\d{2}-\d{4}$"},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"const": {"fixed": [1, 2]}},
    {"allOf": [{"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
               {"required": ["b"], "properties": {"b": {"type": "boolean"}}}]},
    {"type": "object", "required": ["unlisted"]},
    {"type": "object", "minProperties": 2, "additionalProperties": {"type": "number"}},
    {
        "$ref": "#/$defs/node",
        "$defs": {"node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name", "next", "children"],
            "additionalProperties": False,
        }},
    },
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_samples_are_valid_and_repeat(schema):
    for seed in range(20):
        value = sample(schema, Random(seed))
        jsonschema.validate(value, schema)
        assert sample(schema, Random(seed)) == value


def test_nonsense_schemas_do_not_hang():
    for schema in (
        {},
        True,
        {"$ref": "#"},
        {"type": "string", "pattern": "("},
        {"enum": []},
        {"anyOf": [{}]},
    ):
        sample(schema, Random(0))


_leaves = st.one_of(
    st.sampled_from([{"type": "string"}, {"type": "boolean"}, {"type": "null"}, {"enum": ["a", 1]}]),
    st.integers(-50, 50).map(lambda least: {"type": "integer", "minimum": least, "maximum": least + 3}),
    st.integers(0, 9).map(lambda least: {"type": "string", "minLength": least, "maxLength": least + 2}),
)
_schemas = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields),
                "additionalProperties": False,
            }
        ),
        inner.map(lambda item: {"type": "array", "items": item, "minItems": 1, "maxItems": 3}),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches}),
    ),
    max_leaves=12,
)


@given(_schemas, st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_any_schema_of_the_usual_kind_gets_a_valid_sample(schema, seed):
    jsonschema.validate(sample(schema, Random(seed)), schema)
