"""Token ids are read as the text that they stand for, whoever made them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.model import encoding_name_for_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gateway.detect.token_ids import holds_token_ids, with_text
from gateway.privacy.vocabularies import (
    _TOKENIZERS,
    ENCODINGS,
    UnusableVocabulary,
    Vocabularies,
    bundled_file,
    load_vocabulary,
)
from tests.core.builders import run

SAMPLES = (
    "Please charge 4111 1111 1111 1111 to bob@example.com.",
    "マイナンバーは１２３４－５６７８－９０１８です。👍🏽",
    "  spaces\tand\r\nlines \u00e9 \u200b ",
)
TRAINING = [*SAMPLES, "the quick brown fox", "0123456789"]


@pytest.fixture
def tiktoken_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(bundled_file("cl100k_base").parent))


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_of_openai_reads_what_tiktoken_wrote(name: str, tiktoken_files: None) -> None:
    encoding, vocabulary = tiktoken.get_encoding(name), load_vocabulary(name)
    for text in SAMPLES:
        assert vocabulary.read(encoding.encode_ordinary(text)) == text.encode()
    special = dict(encoding._special_tokens)
    assert {token: vocabulary.read([number]) for token, number in special.items()} == {
        token: token.encode() for token in special
    }
    assert len(vocabulary.pieces) == encoding.max_token_value + 1


@settings(max_examples=100)
@given(st.text(), st.lists(st.integers(0, 40), max_size=4))
def test_a_text_in_several_lists_comes_back_whole(text: str, places: list[int]) -> None:
    """Also where a list ends within a character."""
    ids = [number for byte in text.encode() for number in [_BYTE_IDS[byte]]]
    bounds = [0, *sorted(min(place, len(ids)) for place in places), len(ids)]
    lists = [ids[start:end] for start, end in pairwise(bounds)]
    read = with_text({"input": lists, "model": "m"}, _CL100K)
    assert not holds_token_ids(read)
    assert "".join(read["input"]).rstrip("\ufffd") == text.rstrip("\ufffd")


_CL100K = load_vocabulary("cl100k_base")
_BYTE_IDS = {piece[0]: number for number, piece in enumerate(_CL100K.pieces) if piece and len(piece) == 1}


@pytest.mark.parametrize(
    "prompt", [[100_000_000], [-1], [True], [1.5], [[1], ["x"]], [[1, 200_000]], [[[1]]], [10**30], [100_256]]
)
def test_what_is_no_id_of_it_stays_as_it_is(prompt: list[Any]) -> None:
    body = {"prompt": prompt}
    assert holds_token_ids(body) == any(isinstance(item, (list, int)) and item is not True for item in prompt)
    read = with_text(body, _CL100K)
    assert holds_token_ids(read) == holds_token_ids(body)


def test_one_list_is_one_prompt_and_text_beside_ids_stays() -> None:
    ids = list(map(_BYTE_IDS.__getitem__, b"bob"))
    assert with_text({"prompt": ids}, _CL100K) == {"prompt": "bob"}
    assert with_text({"input": [ids, "and eve"]}, _CL100K) == {"input": ["bob", "and eve"]}
    assert with_text({"input": ["a", "b"], "user": "u"}, _CL100K) == {"input": ["a", "b"], "user": "u"}


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin_of_text|>", "<|é|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def _byte_fallback() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_ = [f"<0x{code:02X}>" for code in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", *bytes_], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


@pytest.mark.parametrize("make", [_byte_level, _byte_fallback])
def test_a_tokenizer_of_hugging_face_gives_back_the_text(make: Any, tmp_path: Path) -> None:
    tokenizer = make()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    vocabulary = load_vocabulary(str(path))
    for text in SAMPLES:
        ids = tokenizer.encode(text).ids
        assert vocabulary.read(ids) == text.encode()
    assert vocabulary.read([0]) in {b"<s>", b"<|begin_of_text|>"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no tokenizer.json"),
        ("[]", "is no tokenizer.json"),
        ('{"model": {"vocab": {"a": "b"}}}', "does not give back the text"),
        (
            json.dumps({"model": {"vocab": {"a": 0}}, "decoder": {"type": "WordPiece"}}),
            "does not give back the text as it was",
        ),
        (
            json.dumps({"model": {"vocab": {"a": 10**12}}, "decoder": {"type": "ByteLevel"}}),
            "its token ids are not from 0",
        ),
        (json.dumps({"model": {"vocab": {}}, "decoder": {"type": "ByteLevel"}}), "its token ids"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UnusableVocabulary, match=why):
        load_vocabulary(str(path))


def test_what_openai_serves_is_known_as_tiktoken_knows_it() -> None:
    assert _TOKENIZERS
    assert {model: encoding_name_for_model(model) for model in _TOKENIZERS} == _TOKENIZERS


def test_a_vocabulary_is_loaded_once_and_a_file_that_is_gone_is_nobody_s(tmp_path: Path) -> None:
    async def scenario() -> None:
        vocabularies = Vocabularies()
        first = await vocabularies.of("p50k_base")
        assert first is not None
        assert await vocabularies.of("p50k_base") is first
        assert await vocabularies.of(str(tmp_path / "gone.json")) is None
        assert await vocabularies.of(None) is None

    run(scenario())
