"""How many tokens a text has: near to what o200k_base counts for each kind, and what usage teaches."""

import base64
import random

import orjson
import pytest

from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.text_size import HALF_LIFE_SECONDS, LEARN_FIRST, TextKind, TokenRatios, size_of
from gateway.simulators.tokens import SimulatorTokenizer, load_tokenizer
from tests.core.builders import chat, parsed

_random = random.Random(7)
PROSE = "The committee met on Thursday and decided that the harbour should stay open for another year. " * 60
DIGITS = "".join(_random.choice("0123456789") for _ in range(6000))
TEXTS: dict[str, tuple[str, TextKind]] = {
    "prose": (PROSE, TextKind.PROSE),
    "digits": (DIGITS, TextKind.DIGITS),
    "base64": (base64.b64encode(_random.randbytes(6000)).decode(), TextKind.DENSE),
    "hex": (_random.randbytes(4000).hex(), TextKind.DENSE),
    "json": (orjson.dumps([{"id": n, "tags": ["a", "b"]} for n in range(300)]).decode(), TextKind.MARKS),
    "chinese": (
        "随着人工智能技术的快速发展，越来越多的企业开始使用它。" * 60,
        TextKind.THREE_BYTES,
    ),
    "japanese": ("本契約は、甲と乙との間で締結されるものであり、誠実に協議する。" * 60, TextKind.THREE_BYTES),
    "russian": ("Настоящий договор заключён между сторонами добросовестно. " * 60, TextKind.TWO_BYTES),
    "emoji": ("".join(_random.choice("😀😂🥳🚀🔥💡🎉🙏🧠🦄🌍") for _ in range(2000)), TextKind.FOUR_BYTES),
}


@pytest.fixture(scope="module")
def tokenizer() -> SimulatorTokenizer:
    return load_tokenizer()


def call_of(text: str) -> Call:
    return parsed({"model": "m", "prompt": text}, Api.COMPLETIONS)


@pytest.mark.parametrize("name", TEXTS)
def test_each_kind_of_text_is_known_and_sized_as_its_own(name: str, tokenizer: SimulatorTokenizer) -> None:
    text, kind = TEXTS[name]
    size = size_of(call_of(text))
    assert size is not None
    assert size.kind is kind or name == "hex"
    assert 0.55 < size.tokens / tokenizer.count(text) < 1.8


@pytest.mark.parametrize("other", ["digits", "base64", "chinese", "emoji"])
def test_of_a_mixture_each_part_counts(other: str, tokenizer: SimulatorTokenizer) -> None:
    text = PROSE + TEXTS[other][0]
    size = size_of(call_of(text))
    assert size is not None
    assert 0.6 < size.tokens / tokenizer.count(text) < 1.7


def test_what_digits_teach_is_not_taken_for_prose() -> None:
    ratios, digits, prose = TokenRatios(), call_of(DIGITS), call_of(PROSE)
    before = size_of(prose)
    for _ in range(31):
        ratios.learn(digits, 6000, 0.0, mattered=True)
    digits_size = size_of(digits)
    assert before is not None and digits_size is not None
    assert ratios.tokens(digits_size, 0.0) == pytest.approx(6000, rel=0.01)
    assert ratios.tokens(before, 0.0) == int(before.tokens) + 1


def test_a_wrong_factor_heals_without_any_news() -> None:
    """A prompt that was refused for its size teaches nothing."""
    ratios, prose = TokenRatios(), call_of(PROSE)
    size = size_of(prose)
    assert size is not None
    ratios.learn(prose, int(size.tokens * 3), 0.0, mattered=True)
    factors = [ratios.factor(TextKind.PROSE, times * HALF_LIFE_SECONDS) for times in range(6)]
    assert factors[0] == pytest.approx(3.0, rel=0.01)
    assert factors[1] == pytest.approx(2.0, rel=0.01)
    assert factors[5] < 1.1


def test_an_impossible_report_moves_it_within_bounds() -> None:
    ratios, prose = TokenRatios(), call_of(PROSE)
    ratios.learn(prose, 10_000_000, 0.0, mattered=True)
    assert ratios.factor(TextKind.PROSE, 0.0) == 4.0


def test_of_prompts_on_which_nothing_depends_only_some_are_looked_at() -> None:
    ratios, prose = TokenRatios(), call_of(PROSE)
    for _ in range(LEARN_FIRST):
        ratios.learn(prose, 1500, 0.0, mattered=False)
    learned = ratios.factor(TextKind.PROSE, 0.0)
    ratios.learn(prose, 4000, 0.0, mattered=False)
    assert ratios.factor(TextKind.PROSE, 0.0) == learned
    ratios.learn(prose, 4000, 0.0, mattered=True)
    assert ratios.factor(TextKind.PROSE, 0.0) > learned


def test_text_that_is_not_there_or_cannot_be_told_from_media_has_no_size() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
    assert size_of(parsed(chat([image]))) is None
    past = Call(**{name: getattr(call_of(PROSE), name) for name in Call.__struct_fields__} | {"rest": b"{}"})
    assert size_of(past) is None
