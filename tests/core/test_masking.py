"""Values leave as placeholders, and a request that still shows one is not let out."""

import string
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.catalog import Modality
from gateway.core.causes import Detected
from gateway.core.masking import Masked, mask
from gateway.core.restoring import Restorer
from gateway.core.screening import MOST_MASKED_BYTES, Classified, Masking, Screening, screen, sized_for
from gateway.detect import BUILT_IN, DETECTOR_NAMES, Detectors, find_text
from gateway.detect.custom import words_detector
from tests.core.builders import CLASSES, ZONES, chat, parsed_with_body
from tests.detect.test_detect_properties import cards, cut, full_width

ALL = Detectors(DETECTOR_NAMES)
HOME = {name: zones & {"local"} for name, zones in ZONES.items()}
RAISE_TO = dict.fromkeys(DETECTOR_NAMES, "confidential")
MAIL = "bob@example.com"


def masked(text: str) -> str:
    body = masked_body(chat(text), ALL).body
    return str(body["messages"][0]["content"])


def masked_body(body: Any, detectors: Detectors) -> Masked:
    call, value = parsed_with_body(body)
    return mask(value, call.rest, detectors, detectors.scan(find_text(value).pieces))


def screening(*names: str, raise_to: dict[str, str] = RAISE_TO) -> Screening:
    return Screening(
        classes=CLASSES,
        detectors=Detectors({*raise_to, *names}),
        raise_to=raise_to,
        media={Modality.IMAGE: "internal"},
        masking=Masking(detectors=Detectors(names), home=HOME),
    )


def screened(body: Any, *names: str, floor: str = "internal") -> Classified:
    return screen(*parsed_with_body(body), screening(*names), floor)


# What becomes a placeholder


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("write to bob@example.com.", "write to [EMAIL_1]."),
        ("'bob@example.com', <bob.b+x@mail.example.co.uk>", "'[EMAIL_1]', <[EMAIL_2]>"),
        ("連絡先はtaro@example.co.jpです", "連絡先は[EMAIL_1]です"),
        ("ｂｏｂ＠example.com", "[EMAIL_1]"),
        ("bob@exam\u200bple.com", "[EMAIL_1]"),
        ("müller@bücher.example", "[EMAIL_1]"),
        ("clone git@github.com:a/b", "clone git@github.com:a/b"),
        ("card 4111 1111 1111 1111, or 5500005555555559", "card [CREDIT_CARD_1], or [CREDIT_CARD_2]"),
        ("GB82 WEST 1234 5698 7654 32 and gb82west12345698765432", "[IBAN_1] and [IBAN_2]"),
        ("my number is 1234-5678-9018", "my number is [JP_MY_NUMBER_1]"),
        ("219-09-9999, ssn 219099998", "[US_SSN_1], ssn [US_SSN_2]"),
        ("password=abcdefgh12345678!x now", "password=[SECRET_1] now"),
        ("sk-proj-abcdefghijklmnop1234abcd.", "[SECRET_1]"),
        ("Bearer abcdefgh12345678abcd", "Bearer [SECRET_1]"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nthanks",
            "[SECRET_1]\nthanks",
        ),
    ],
)
def test_the_whole_value_and_nothing_else(text: str, replaced: str) -> None:
    assert masked(text) == replaced


def test_one_value_has_one_placeholder_and_another_has_another() -> None:
    assert masked("a@b.example c@d.example a@b.example") == "[EMAIL_1] [EMAIL_2] [EMAIL_1]"


def test_a_conversation_that_goes_on_keeps_its_placeholders() -> None:
    first = [{"role": "user", "content": "a@b.example"}]
    more = [
        *first,
        {"role": "assistant", "content": "a@b.example"},
        {"role": "user", "content": "c@d.example"},
    ]
    bodies = [masked_body(chat() | {"messages": messages}, ALL).body for messages in (first, more)]
    assert bodies[1]["messages"][:1] == bodies[0]["messages"]
    assert [message["content"] for message in bodies[1]["messages"]] == [
        "[EMAIL_1]",
        "[EMAIL_1]",
        "[EMAIL_2]",
    ]


def test_a_placeholder_that_the_client_wrote_itself_is_not_used() -> None:
    assert masked("as [EMAIL_1] said: bob@example.com") == "as [EMAIL_1] said: [EMAIL_2]"


def test_a_detector_of_ones_own_gives_its_name() -> None:
    names = Detectors(("project-names",), {"project-names": words_detector(["Kestrel"])})
    found = masked_body(chat("the Kestrel file"), names)
    assert found.originals == {"[PROJECT_NAMES_1]": "Kestrel"}


def test_every_string_of_the_body_but_payloads() -> None:
    body = chat() | {
        "messages": [
            {"role": "system", "content": MAIL},
            {"role": "user", "name": MAIL, "content": [{"type": "text", "text": MAIL}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": f'{{"a":"{MAIL}"}}'}}],
            },
        ],
        "metadata": {"who": MAIL},
        "user": MAIL,
        "stop": [MAIL, [MAIL]],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"enum": [MAIL]}}}],
    }
    found = masked_body(body, ALL)
    assert MAIL.encode() not in found.rest
    assert found.rest.count(b"[EMAIL_1]") == 9
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,sk+proj+" + "A" * 40}}
    assert masked_body(chat([image]), ALL).body["messages"][0]["content"] == [image]


def test_a_value_in_arguments_means_what_it_means_there() -> None:
    arguments = orjson.dumps({"size": 'the 7"x', "n": "ü"}).decode()
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    words = Detectors(("w",), {"w": words_detector(['7"x'])})
    found = masked_body(chat() | {"messages": [{"role": "assistant", "tool_calls": [call]}]}, words)
    assert found.originals == {}
    own = Detectors(("w",), {"w": words_detector([r"7\"x"])})
    assert masked_body(
        chat() | {"messages": [{"role": "assistant", "tool_calls": [call]}]}, own
    ).originals == {"[W_1]": '7"x'}


# What class is left


def test_without_its_values_a_request_is_of_the_class_that_is_left() -> None:
    found = screened(chat(f"write to {MAIL}"), "email")
    assert (found.privacy, found.raised_by) == ("internal", ())
    assert found.stand_in is not None
    assert found.stand_in.privacy == "confidential"
    assert found.stand_in.zones == {"local"}


def test_what_the_feature_does_not_mask_still_counts() -> None:
    found = screened(chat(f"{MAIL} 4111 1111 1111 1111"), "email")
    assert found.privacy == "confidential"
    assert [item.by for item in found.raised_by] == [Detected("credit_card")]


def test_masking_never_lowers_the_floor() -> None:
    assert screened(chat(MAIL), "email", floor="restricted").privacy == "restricted"


def test_without_a_find_nothing_is_sent_in_place() -> None:
    assert screened(chat("hello"), "email").stand_in is None


@pytest.mark.parametrize(
    "body",
    [
        chat([{"type": "text", "text": "bob@exam"}, {"type": "text", "text": "ple.com"}]),
        chat(r"bob\u0040example.com"),
        chat() | {"metadata": {MAIL: "x"}},
        chat() | {"metadata": {"card": 4111111111111111}},
        chat(MAIL + " " * MOST_MASKED_BYTES),
        chat(MAIL) | {"stream": True, "stream_options": {"note": "a@b.example"}},
    ],
    ids=["split", "escaped", "name of a member", "number", "too long", "stream options"],
)
def test_what_cannot_be_replaced_counts_as_the_most_sensitive_class(body: Any) -> None:
    quiet = screening("email", "credit_card", raise_to={})
    assert screen(*parsed_with_body(body), quiet, "public").privacy == "restricted"


def test_a_longer_body_is_reckoned_with() -> None:
    call, body = parsed_with_body(chat("a@b.cd"))
    found = screen(call, body, screening("email"), "internal")
    assert found.stand_in is not None
    sized = sized_for(call, found.stand_in)
    assert sized.text_bytes - call.text_bytes == len(found.stand_in.masked.rest) - len(call.rest)


def test_below_the_head_of_a_column_every_row_is_masked() -> None:
    """The word for it stands in another message, and far above most of the numbers."""
    rows = "".join(f"Tanaka {row},123456789018\n" for row in range(60))
    call, body = parsed_with_body(
        {
            "model": "auto",
            "messages": [
                {"role": "user", "content": "name,my_number"},
                {"role": "user", "content": rows},
                {"role": "user", "content": "4111 1111 1111 1111, and the id 123456789018"},
            ],
        }
    )
    found = screen(call, body, screening("credit_card", "jp_my_number"), "internal")
    assert found.stand_in is not None
    assert b"123456789018" not in found.stand_in.masked.rest
    assert b"1111" not in found.stand_in.masked.rest


# The property: no byte of a value is left, or the request stays at home.

plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text(string.ascii_letters + string.digits, min_size=3, max_size=10).filter(
    lambda s: s.lower() != "git"
)
emails = st.builds("{}@{}.example".format, names, names)
values = st.one_of(emails, cards(), st.just("GB82WEST12345698765432"), st.just("1234-5678-9018"))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """A conversation with values anywhere in it, and the values."""
    held = draw(st.lists(values, min_size=1, max_size=3))
    messages: list[Any] = []
    for value in held:
        written = full_width(value) if draw(st.booleans()) else value
        text = f"{draw(plain)} ({written}) {draw(plain)} my number"
        match draw(st.integers(0, 5)):
            case 0:
                content: Any = text
            case 1:
                content = [{"type": "text", "text": part} for part in cut(text, [draw(st.integers(0, 30))])]
            case 2:
                content = orjson.dumps({"quoted": text}).decode()
            case 3:
                content = "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text)
            case 4:
                content = None
                call = {"name": "f", "arguments": orjson.dumps({"a": text}).decode()}
                messages.append({"role": "assistant", "tool_calls": [{"id": "1", "function": call}]})
            case _:
                content = "hello"
                messages.append({"role": "user", "content": "x", text: 1})
        messages.append({"role": "user", "content": content})
    return {"model": "auto", "messages": messages}, held


@settings(max_examples=400, deadline=None)
@given(bodies())
def test_no_value_is_left_in_what_may_go_out(given_: tuple[Any, list[str]]) -> None:
    body, held = given_
    call, value = parsed_with_body(body)
    names = ("email", "credit_card", "iban", "jp_my_number")
    found = screen(call, value, screening(*names), "internal")
    if "external" not in ZONES[found.privacy]:
        return
    assert found.stand_in is not None
    sent = found.stand_in.masked.rest
    assert ALL.scan([sent.decode()]) == frozenset()
    for value in held:
        assert value.encode() not in sent
        assert full_width(value).encode() not in sent


@settings(max_examples=300, deadline=None)
@given(bodies())
def test_what_was_replaced_can_be_put_back(given_: tuple[Any, list[str]]) -> None:
    call, body = parsed_with_body(given_[0])
    found = mask(body, call.rest, ALL, ALL.scan(find_text(body).pieces))
    if found.originals:
        restored = orjson.loads(Restorer(found).answer(found.rest))
        assert _meaning(restored) == _meaning(body)


def _meaning(node: Any, key: str = "") -> Any:
    """A body, with the JSON of arguments read."""
    if isinstance(node, dict):
        return {name: _meaning(value, name) for name, value in node.items()}
    if isinstance(node, list):
        return [_meaning(item, key) for item in node]
    return orjson.loads(node) if key == "arguments" and isinstance(node, str) else node


def test_built_in_detectors_all_say_where_their_values_are() -> None:
    text = {
        "email": MAIL,
        "credit_card": "4111111111111111",
        "iban": "GB82WEST12345698765432",
        "jp_my_number": "123456789018",
        "us_ssn": "219-09-9999",
        "secret": "sk-proj-abcdefghijklmnop1234",
    }
    assert text.keys() == BUILT_IN.keys()
    for name, value in text.items():
        raw = f"this: {value} ".encode()
        assert next(BUILT_IN[name].spans(raw)) == (6, 6 + len(value))
