"""Every detector against every disguise that docs/privacy.md promises to see through: one table."""

import base64
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import cycle
from urllib.parse import quote

import pytest

from gateway.detect import BUILT_IN, DETECTOR_NAMES, Detectors
from gateway.detect.custom import words_detector

WORDS = {
    "project": words_detector(["Project Bluebird"]),
    "codename": words_detector(["カワセミ計画"]),
    "supplier": words_detector(["Acme Holding", *(f"supplier number {n}" for n in range(1_000))]),
}
ALL = Detectors((*DETECTOR_NAMES, *WORDS), {**BUILT_IN, **WORDS})

# Detector -> what stands before the value, and the value.
VALUES = {
    "email": ("", "bob.smith@example.com"),
    "credit_card": ("", "4111111111111111"),
    "iban": ("", "GB82WEST12345698765432"),
    "jp_my_number": ("マイナンバー: ", "123456789018"),
    "us_ssn": ("SSN: ", "123-45-6789"),
    "secret": ("", "AKIAIOSFODNN7EXAMPLE"),
    "project": ("", "Project Bluebird"),
    "codename": ("", "カワセミ計画"),
    "supplier": ("", "Acme Holding"),
}

# What shows nothing: one of each kind of character that Unicode has for it.
UNSEEN = {
    "soft hyphen": "\u00ad",
    "combining grapheme joiner": "\u034f",
    "Arabic letter mark": "\u061c",
    "Hangul choseong filler": "\u115f",
    "Hangul jungseong filler": "\u1160",
    "Khmer inherent vowel": "\u17b4",
    "Mongolian variation selector": "\u180b",
    "Mongolian vowel separator": "\u180e",
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "right-to-left override": "\u202e",
    "word joiner": "\u2060",
    "invisible times": "\u2062",
    "unassigned, ignorable": "\u2065",
    "braille blank": "\u2800",
    "Hangul filler": "\u3164",
    "variation selector": "\ufe0f",
    "byte order mark": "\ufeff",
    "half-width Hangul filler": "\uffa0",
    "unassigned specials": "\ufff0",
    "interlinear anchor": "\ufff9",
    "musical null notehead": "\U0001d159",
    "musical beam": "\U0001d173",
    "shorthand format": "\U0001bca0",
    "tag": "\U000e0041",
    "unassigned tag": "\U000e0080",
    "variation selector 17": "\U000e0100",
    "combining mark": "\u0301",
    "null": "\x00",
    "escape": "\x1b",
    "delete": "\x7f",
    "C1 control": "\x86",
}
# What looks like a space.
BLANK = {
    "no-break space": "\u00a0",
    "ogham space": "\u1680",
    "en quad": "\u2000",
    "thin space": "\u2009",
    "line separator": "\u2028",
    "narrow no-break space": "\u202f",
    "mathematical space": "\u205f",
    "ideographic space": "\u3000",
    "braille blank": "\u2800",
    "Hangul filler": "\u3164",
    "tab": "\t",
    "line end": "\n",
    "indented line": "\r\n    ",
    "several spaces": "     ",
}
SEPARATORS = {
    **BLANK,
    "slash": "/",
    "comma": ",",
    "comma and space": ", ",
    "semicolon": ";",
    "colon": ":",
    "plus": "+",
    "bar": "|",
    "table cell": " | ",
    "star": "*",
    "underscore": "_",
    "dot": ".",
    "full-width dot": "\uff0e",
    "dash": "-",
    "en dash": "\u2013",
    "spaced dash": " - ",
    "CSV": '","',
    "JSON": '", "',
    "JSON lines": '",\n  "',
    "JSON in JSON": '\\", \\"',
    "Markdown": "** **",
    "quotes": "' '",
    "brackets": ") (",
    "no-break entity": "&nbsp;",
    "percent space": "%20",
}

Disguise = Callable[[str], str]


def each(write: Callable[[str], str]) -> Disguise:
    return lambda value: "".join(map(write, value))


def every_second(write: Callable[[str], str]) -> Disguise:
    return lambda value: "".join(c if n % 2 else write(c) for n, c in enumerate(value))


def entities(*forms: str) -> Disguise:
    def write(value: str) -> str:
        form = cycle(forms)
        return "".join(next(form).format(n=ord(c)) for c in value)

    return write


def utf16(character: str) -> Iterator[str]:
    raw = character.encode("utf-16-be")
    return (raw[n : n + 2].hex() for n in range(0, len(raw), 2))


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def base64_of(value: str) -> str:
    return base64.b64encode(f"to: {value} now".encode()).decode()


def gzipped(value: str) -> str:
    return base64.b64encode(gzip.compress(f"to: {value} now".encode(), mtime=0)).decode()


def percent(value: str) -> str:
    return "".join(f"%{byte:02X}" for byte in value.encode())


ESCAPED: dict[str, Disguise] = {
    "as it is": str,
    "full width": full_width,
    "decimal entities": each(lambda c: f"&#{ord(c)};"),
    "padded decimal entities": each(lambda c: f"&#{ord(c):07d};"),
    "hex entities": each(lambda c: f"&#x{ord(c):x};"),
    "padded hex entities": each(lambda c: f"&#X{ord(c):06X};"),
    "entities of both kinds": entities("&#{n};", "&#x{n:X};", "&#{n:05d};"),
    "decimal entities without semicolon": each(lambda c: f"&#{ord(c)}"),
    "padded entities without semicolon": each(lambda c: f"&#{ord(c):06d}"),
    "hex entities without semicolon": each(lambda c: f"&#x{ord(c):x}"),
    "entities in entities": each(lambda c: f"&amp;#{ord(c)};"),
    "every second an entity": every_second(lambda c: f"&#{ord(c)};"),
    "percent": percent,
    "lower-case percent": lambda value: percent(value).lower(),
    "percent where needed": lambda value: quote(value, safe=""),
    "every second percent": every_second(percent),
    "double percent": lambda value: percent(value).replace("%", "%25"),
    "threefold percent": lambda value: percent(value).replace("%", "%2525"),
    "percent u": each(lambda c: "".join(f"%u{unit}" for unit in utf16(c))),
    "backslash x": lambda value: "".join(f"\\x{byte:02x}" for byte in value.encode()),
    "two backslashes x": lambda value: "".join(f"\\\\x{byte:02x}" for byte in value.encode()),
    "backslash u": each(lambda c: "".join(f"\\u{unit}" for unit in utf16(c))),
    "backslash u, upper case": each(lambda c: "".join(f"\\u{unit.upper()}" for unit in utf16(c))),
    "two backslashes u": each(lambda c: "".join(f"\\\\u{unit}" for unit in utf16(c))),
    "four backslashes u": each(lambda c: "".join(f"\\\\\\\\u{unit}" for unit in utf16(c))),
    "every second backslash u": every_second(lambda c: "".join(f"\\\\u{unit}" for unit in utf16(c))),
    "backslash u, braces": each(lambda c: f"\\u{{{ord(c):x}}}"),
    "backslash U": each(lambda c: f"\\U{ord(c):08x}"),
    "escapes in percent": each(lambda c: "".join(f"%5Cu{unit}" for unit in utf16(c))),
    "base64": base64_of,
    "base64 for addresses of the web": lambda value: base64_of(value).replace("+", "-").replace("/", "_"),
    "base64 without padding": lambda value: base64_of(value).rstrip("="),
    "base64 in lines": lambda value: re.sub(".{24}", r"\g<0>\n", base64_of(value)),
    "base64 behind letters": lambda value: "x" + base64_of(value),
    "base64 in base64": lambda value: base64_of(base64_of(value)),
    "gzip": gzipped,
    "gzip in gzip": lambda value: gzipped(gzipped(value)),
    "zlib": lambda value: base64.b64encode(zlib.compress(f"to: {value} now".encode())).decode(),
    "percent in base64": lambda value: base64_of(percent(value)),
    "base64 in percent": lambda value: percent(base64_of(value)),
}


@pytest.mark.parametrize("disguise", ESCAPED)
@pytest.mark.parametrize("detector", VALUES)
def test_an_encoding_hides_nothing(detector: str, disguise: str) -> None:
    before, value = VALUES[detector]
    assert detector in ALL.scan([f"{before}{ESCAPED[disguise](value)} and so on"])
    inside = ESCAPED[disguise](before + value)
    assert detector in ALL.scan([f"see {inside} and so on"])


@pytest.mark.parametrize("unseen", UNSEEN)
@pytest.mark.parametrize("detector", VALUES)
def test_what_shows_nothing_hides_nothing(detector: str, unseen: str) -> None:
    before, value = VALUES[detector]
    assert detector in ALL.scan([before + UNSEEN[unseen].join(value)])
    middle = len(value) // 2
    assert detector in ALL.scan([f"{before}{value[:middle]}{UNSEEN[unseen]}{value[middle:]} and so on"])


@pytest.mark.parametrize("blank", BLANK)
@pytest.mark.parametrize("detector", ["project", "supplier"])
def test_a_blank_of_any_kind_may_stand_in_own_words(detector: str, blank: str) -> None:
    value = VALUES[detector][1].replace(" ", BLANK[blank])
    assert detector in ALL.scan([f"about {value}, please"])


GROUPS = {
    "credit_card": ("4111", "1111", "1111", "1111"),
    "iban": ("GB82", "WEST", "1234", "5698", "7654", "32"),
    "jp_my_number": ("1234", "5678", "9018"),
    "us_ssn": ("123", "45", "6789"),
}


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("detector", GROUPS)
def test_groups_are_read_whatever_stands_between_them(detector: str, separator: str) -> None:
    before, _ = VALUES[detector]
    written = SEPARATORS[separator].join(GROUPS[detector])
    assert detector in ALL.scan([f"{before}{written}"])
    assert detector in ALL.scan([f"{before}see '{written}' here."])


@pytest.mark.parametrize("separator", [",", ", ", "\n", "/", "|", "_", " ", "-", "."])
def test_a_card_is_read_digit_by_digit(separator: str) -> None:
    assert "credit_card" in ALL.scan([separator.join("4111111111111111")])


@pytest.mark.parametrize("groups", [(4, 6, 5), (4, 4, 4, 3)])
def test_cards_of_fifteen_digits_are_read_with_commas(groups: tuple[int, ...]) -> None:
    digits = iter("378282246310005")
    written = '","'.join("".join(next(digits) for _ in range(size)) for size in groups)
    assert "credit_card" in ALL.scan([f'["{written}"]'])


@pytest.mark.parametrize(
    "address",
    [
        "bob＠example．com",
        "bob﹫example﹒com",
        "bob@example。com",
        "bob@example｡com",
        "bob@example\u2024com",
        "bob&commat;example&period;com",
        "bob@exam-\nple.com",
        "bob%2540example.com",
        "bob%40example%2Ecom",
    ],
)
def test_other_at_signs_and_dots_are_read_in_addresses(address: str) -> None:
    assert "email" in ALL.scan([f"write to {address} today"])


@pytest.mark.parametrize(
    ("detector", "text"),
    [
        ("project", "project_bluebird"),
        ("project", "v2_project_bluebird_final"),
        ("project", "PROJECT-BLUEBIRD"),
        ("project", "Project\n> Bluebird".replace("> ", "")),
        ("project", "Pro-\nject Blue-\r\n  bird"),
        ("supplier", "supplier_acme_holding_id"),
        ("supplier", "Acme\r\n        Holding"),
        ("supplier", "Acme Hold-\ning"),
        ("codename", "カワセミ\n計画"),
        ("codename", "カワ\n  セミ計画"),
        ("codename", "ｶﾜｾﾐ計画"),
        ("codename", "x_カワセミ計画_y"),
    ],
)
def test_own_words_are_read_in_names_and_over_the_end_of_a_line(detector: str, text: str) -> None:
    assert detector in ALL.scan([f"about {text} again"])


@pytest.mark.parametrize("detector", VALUES)
def test_halves_in_neighbouring_turns_are_one(detector: str) -> None:
    before, value = VALUES[detector]
    for cut in range(1, len(value)):
        first, second = f"{before}{value[:cut]}", value[cut:]
        assert detector in ALL.scan(["Be brief.", first, second])
        assert detector in ALL.scan(["Be brief.", first, "Go on.", second, "I see."])
        assert detector in ALL.scan([first, "Go on.", second])


@pytest.mark.parametrize("cut", range(1, 24))
def test_an_escape_may_be_cut_between_two_pieces(cut: int) -> None:
    written = r"bob\u0040example&#46;com"
    assert "email" in ALL.scan(["here:", written[:cut], written[cut:]])
