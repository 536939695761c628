"""The trigger of e-mail addresses misses none: what is found is what a look at every "@" finds."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.detect import BUILT_IN, DETECTOR_NAMES, Detectors
from gateway.detect.emails import EMAIL_TRIGGER, has_email
from gateway.detect.engine import Pattern
from gateway.detect.fold import fold
from gateway.detect.views import encoded, joined

EVERY_AT_SIGN = BUILT_IN["email"]._replace(trigger="@|%40|&#64;")
NEW = Detectors(("email",))
# Reads both views from end to end, so it needs no trigger near a seam.
OLD = Detectors(("email",), {"email": EVERY_AT_SIGN._replace(reach=None)})
ALL_NEW = Detectors(DETECTOR_NAMES)
ALL_OLD = Detectors(DETECTOR_NAMES, {**BUILT_IN, "email": EVERY_AT_SIGN._replace(reach=None)})
TRIGGER = Pattern(EMAIL_TRIGGER)

# How an address or a part of one can be spelled, and what stands around it.
PARTS = (
    *(
        "bob",
        "BOB",
        "git",
        "it",
        "t",
        "xgit",
        "Git",
        "gi",
        "g",
        '"john doe"',
        "o'brien",
        "a.b",
        "x+y",
        "_",
        "~=",
    ),
    *(
        "@",
        "%40",
        "&#64;",
        "＠",
        "﹫",
        "\\u0040",
        "\\uff20",
        "\\u005cu0040",
        "%4",
        "0",
        "&#6",
        "4;",
        "\\u00",
        "40",
    ),
    *(
        "b",
        "example",
        "EXAMPLE",
        "例え",
        "пример",
        "b-c",
        "１２",
        "ｅｘ",
        "xn--r8jz45g",
        "-",
        "h" * 47,
        "h" * 48,
    ),
    *("h" * 49, "h" * 95, "h" * 96, "h" * 97, "日" * 60, "a." * 30, "sub." * 40, "h" * 500),
    *(".", "．", "。", "・", "..", ".c", ".com", ".COM", ".co", ".1", ".テスト", "．ｃｏｍ", "\\u002ecom"),
    *(
        " ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        ",",
        "<",
        ">",
        ":",
        "/",
        "1",
        "１",
        "\u200b",
        "\u00ad",
        "\u0301",
        "\ufeff",
    ),
    *("\ud83d", "\udc00", "\x00", "\\", "\\n"),
)
parts = st.sampled_from(PARTS)
texts = st.lists(parts, max_size=8).map("".join)
pieces_of = st.lists(texts, max_size=6)


@st.composite
def addresses_in_pieces(draw: st.DrawFn) -> list[str]:
    """An address or nearly one, in some text, cut anywhere."""
    local, sign = draw(st.sampled_from(PARTS[:15])), draw(st.sampled_from(PARTS[15:21]))
    host = draw(st.lists(st.sampled_from(PARTS[29:49]), min_size=1, max_size=4).map("".join))
    text = (
        draw(texts)
        + local
        + sign
        + host
        + draw(st.sampled_from([".com", ".c", "．ｊｐ", ".日本", ""]))
        + draw(texts)
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=5)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(max_examples=2_000, deadline=None)
@given(st.one_of(pieces_of, addresses_in_pieces()))
@example(["bob@" + "h" * 200, "h" * 200 + ".com"])
@example(["bob", "@", "h" * 200, ".", "c", "om"])
@example(["x" * 200 + "bob@h", "h" * 200, "h" * 200 + ".com"])
@example(["git@" + "h" * 44 + ".c", "om"])
@example(["bob@h.c", "1"])
@example(["bob", "@" + "h" * 200 + ".com"])
@example(["bob@", "h" * 200 + ".com"])
@example(["bob%4", "0" + "h" * 200 + ".com"])
def test_what_is_found_is_what_a_look_at_every_sign_finds(pieces: list[str]) -> None:
    assert NEW.scan(pieces) == OLD.scan(pieces)
    assert ALL_NEW.scan(pieces) == ALL_OLD.scan(pieces)


@settings(max_examples=1_000, deadline=None)
@given(st.one_of(pieces_of, addresses_in_pieces()))
def test_every_text_that_holds_an_address_has_the_trigger(pieces: list[str]) -> None:
    for raw in (encoded(joined(pieces)), encoded(joined([fold(piece) for piece in pieces]))):
        assert TRIGGER.occurs_in(raw) or not has_email(raw)


@settings(max_examples=100, deadline=None)
@given(
    before=st.sampled_from(["", "x" * 100, "x" * 5_000]),
    host=st.integers(1, 6_000),
    cuts=st.lists(st.integers(0, 11_000), max_size=4),
)
def test_an_address_with_a_long_host_is_found_wherever_it_is_cut(
    before: str, host: int, cuts: list[int]
) -> None:
    text = f"{before} bob@{'h' * host}.com"
    cuts = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert NEW.scan(pieces) == OLD.scan(pieces)
    if len(text) < 8_000:
        assert NEW.scan(pieces) == {"email"}


@pytest.mark.parametrize("sign", ["@", "&#64;"])
@pytest.mark.parametrize("middle", [0, 1, 2, 47, 48, 49, 96, 97, 130])
def test_an_address_with_a_long_host_is_found_at_every_cut(sign: str, middle: int) -> None:
    text = f"{'x' * 120} bob{sign}{'h' * 120}.com {'y' * 120}"
    for at in range(100, 300):
        assert NEW.scan([text[:at], text[at : at + middle], text[at + middle :]]) == {"email"}
        assert NEW.scan([text[:at], text[at:]]) == {"email"}


SPELLED = (
    "bob@example.com",
    "BOB@EXAMPLE.COM",
    "ｂｏｂ＠ｅｘａｍｐｌｅ．ｃｏｍ",
    "bob＠example.com",
    "bob﹫example.com",
    r"bob\u0040example.com",
    r"bob\uff20example\uff0ecom",
    "bob%40example.com",
    "bob&#64;example.com",
    "bob@例え.テスト",
    "почта@пример.рф",
    "田中@example.jp",
    "o'brien@example.com",
    '"john"doe@example.com',
    "bob@sub." + "deep." * 40 + "example.com",
    "bo\u200bb@exa\u00admple.c\ufeffom",
    "xgit@example.com",
    "it@example.com",
)


@pytest.mark.parametrize("address", SPELLED)
def test_an_address_is_found_at_every_cut_and_with_text_around_it(address: str) -> None:
    for text in (address, f"Write to {address} today", f"{'x' * 150} {address} {'y' * 150}"):
        assert NEW.scan([text]) == {"email"}
        for at in range(len(text) + 1):
            pieces = [text[:at], text[at:]]
            assert NEW.scan(pieces) == OLD.scan(pieces)
            if "\\" not in address and "&" not in address:
                assert NEW.scan(pieces) == {"email"}


@pytest.mark.parametrize("address", SPELLED[:2] + SPELLED[7:14])
def test_an_address_in_pieces_of_one_character_is_found(address: str) -> None:
    assert NEW.scan(list(f"to {address}")) == {"email"}


@pytest.mark.parametrize(
    "text",
    [
        "the carrier (rate @ 1,240.50 a lorry)",
        "@everyone, please read",
        "meet me @ the office. Bring tea",
        "git@github.com:owner/name.git",
        "50% off, 40%40 and &#64 alone",
        "bob@localhost now",
        "bob@10.0.0.1",
        '"john doe"@example.com',
    ],
)
def test_what_is_no_address_is_not_found(text: str) -> None:
    assert NEW.scan([text, "thanks"]) == frozenset()


@pytest.mark.parametrize("text", ["the carrier (rate @ 1,240.50 a lorry)", "bob@localhost now", "@everyone"])
def test_a_sign_that_begins_no_host_does_not_cost_a_second_look(text: str) -> None:
    assert not TRIGGER.occurs_in(f"Note: {text}, and so on".encode())
