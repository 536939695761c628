"""Bank accounts and personal numbers: IBAN, Japan's individual number, the US social security number."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from gateway.detect.candidates import any_passes
from gateway.detect.checksums import iban_holds, my_number_holds
from gateway.detect.context import MY_NUMBER_WORDS, SSN_WORD, SSN_WORDS, without_labelled_groups
from gateway.detect.engine import Pattern, Span
from gateway.detect.grouping import DIGITS_TRIGGER, LOOSE, LOOSE_OR_NONE, LOOSE_TRIGGER, with_single_spaces
from gateway.detect.ibans import bban_expressions

_SEPARATORS = b" .-"
_NOT_DIGITS = re.compile(rb"[^0-9]+")
_PART_BYTES = 512
_OVERLAP_BYTES = 64  # as long as the longest head and rest that are looked at
_GAP = r"[ .\-]?"

_BBANS = bban_expressions(_GAP)
_BBAN_PATTERNS = {country.encode(): re.compile(bban.encode()) for country, bban in _BBANS.items()}
_IBAN_SHAPE = Pattern("|".join(f"{country}[0-9]{{2}}{bban}" for country, bban in _BBANS.items()))
# One alternative for each first letter, which the engine can skip by.
_COUNTRY = "|".join(
    f"{first}[{''.join(country[1] for country in countries)}]"
    for first, countries in groupby(sorted(_BBANS), key=lambda country: country[0])
)
# The head, and as much after it as the longest BBAN with a separator before each character.
_IBAN_HEAD = re.compile(
    f"([A-Z]{{2}}[0-9]{{2}}(?<=(?:{_COUNTRY})[0-9]{{2}}))(?=([0-9A-Z .\\-]{{11,60}}))".encode()
)
_LOOSE_IBAN = rf"(?i:{_COUNTRY})[0-9]{{2}}{LOOSE}[0-9A-Za-z]{{4}}{LOOSE}[0-9A-Za-z]{{3}}"
_MAYBE_LOOSE_IBAN = Pattern(_LOOSE_IBAN)
IBAN_TRIGGER = rf"(?i:{_COUNTRY})[0-9]{{2}}(?:{_GAP}[0-9A-Za-z]){{8}}|{_LOOSE_IBAN}"


def has_iban(text: bytes) -> bool:
    """Whether folded `text` holds an international bank account number, in either case and any grouping.

    Rule: a country's code, check digits from 02 to 98, that country's own sequence of digits and letters, and
    MOD 97-10 that holds. Source: ISO 13616-1 and the SWIFT IBAN Registry.
    """
    upper = text.upper()
    if any_passes(_iban_candidates(upper), iban_holds):
        return True
    return _MAYBE_LOOSE_IBAN.occurs_in(text) and any_passes(
        _iban_candidates(with_single_spaces(upper)), iban_holds
    )


def _iban_candidates(upper: bytes) -> Iterator[bytes]:
    for part in _distinct_parts(upper):
        # The engine without lookaround is so much faster that asking it first costs less than not asking.
        if _IBAN_SHAPE.occurs_in(part):
            for match in _IBAN_HEAD.finditer(part):
                head, rest = match.groups()
                bban = _BBAN_PATTERNS[head[:2]].match(rest)
                if bban:
                    yield head + bban[0].translate(None, _SEPARATORS)


def _distinct_parts(text: bytes) -> Iterable[bytes]:
    """`text` in overlapping parts without repetitions: a megabyte of one number shrinks to a few of them."""
    if len(text) <= _PART_BYTES:
        return (text,)
    starts = range(0, len(text), _PART_BYTES - _OVERLAP_BYTES)
    return dict.fromkeys(text[start : start + _PART_BYTES] for start in starts)


def iban_spans(text: bytes) -> Iterator[Span]:
    """Where `text` has IBANs: first and last offset of each."""
    upper = text.upper()
    end = 0
    for match in _IBAN_HEAD.finditer(upper):
        head, rest = match.groups()
        bban = _BBAN_PATTERNS[head[:2]].match(rest)
        if bban and match.start() >= end and iban_holds(head + bban[0].translate(None, _SEPARATORS)):
            end = match.end() + bban.end()
            yield match.start(), end


# Longer runs are swallowed whole: no position in them can begin twelve digits that stand alone.
_MY_NUMBER = re.compile(
    rb"[0-9]{13,}|"
    rb"([0-9](?=[0-9]{3})(?<![0-9A-Za-z+][0-9])(?<![0-9][.\-][0-9])(?<![0-9A-Fa-f]{4}-[0-9])"
    rb"(?:[0-9]{11}(?![0-9A-Za-z])|"
    rb"(?<![0-9] [0-9])[0-9]{3}(?: [0-9]{4} |-[0-9]{4}-|\.[0-9]{4}\.)[0-9]{4}(?![0-9A-Za-z])(?![ .\-][0-9])))"
)
_LOOSE_MY_NUMBER = re.compile(
    rb"(?<![0-9])[0-9]{4}" + LOOSE.encode() + rb"[0-9]{4}" + LOOSE.encode() + rb"[0-9]{4}(?![0-9])"
)
# Whether to look for candidates at all.
_MY_NUMBER_SHAPE = Pattern(
    rf"(?:^|[^0-9])[0-9]{{4}}{LOOSE_OR_NONE}[0-9]{{4}}{LOOSE_OR_NONE}[0-9]{{4}}(?:[^0-9]|$)"
)
_MINUTE = re.compile(
    rb"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])(?:[01][0-9]|2[0-3])[0-5][0-9]"
)
_YEARS_OR_FILLER = re.compile(rb"(?:(?:19|20)[0-9]{2}){3}|([0-9])\1{11}")
MY_NUMBER_TRIGGER = f"{DIGITS_TRIGGER}|{LOOSE_TRIGGER}"


def has_jp_my_number(text: bytes) -> bool:
    """Whether folded `text` holds an individual number (My Number, kojin bango).

    Rule: beside a word for it (MY_NUMBER_WORDS), twelve digits whose check digit holds, next to no other
    digit or ASCII letter, in one go or in groups of four. One number of eleven passes the check, so without a
    word nothing is one. Nor are groups that a label calls an order or a parcel, a number after "+", the last
    group of a UUID. Source: Ordinance of the Ministry of Internal Affairs and Communications No. 85 of 2014,
    article 5.
    """
    if not _MY_NUMBER_SHAPE.occurs_in(text):
        return False
    beside = without_labelled_groups(MY_NUMBER_WORDS.beside(text))
    found = dict.fromkeys((*_MY_NUMBER.findall(beside), *_LOOSE_MY_NUMBER.findall(beside)))
    numbers = (_NOT_DIGITS.sub(b"", candidate) for candidate in found)
    return any_passes((number for number in numbers if len(number) == 12), my_number_holds)


def jp_my_number_spans(text: bytes) -> Iterator[Span]:
    """Where `text` has individual numbers, beside a word or not: first and last offset of each.

    Asked of every text of a request in which one was found: below the head of a column no row names it.
    """
    for match in _MY_NUMBER.finditer(text):
        if match[1]:
            number = match[1].translate(None, _SEPARATORS)
            if _may_be_my_number(number) and my_number_holds(number):
                yield match.span(1)


def _may_be_my_number(number: bytes) -> bool:
    return not (_MINUTE.match(number) or _YEARS_OR_FILLER.match(number))


_AREA = "(?:00[1-9]|0[1-9][0-9]|[1-578][0-9]{2}|6[0-57-9][0-9]|66[0-57-9])"
_GROUP = "(?:0[1-9]|[1-9][0-9])"
_SERIAL = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"


def _grouped_ssn(separator: str) -> str:
    """Not part of a longer chain of numbers with the same separator."""
    before = rf"(?:^|[^0-9{separator}]|(?:^|[^0-9]){separator})"
    after = rf"(?:$|[^0-9{separator}]|{separator}(?:[^0-9]|$))"
    return f"{before}{_AREA}{separator}{_GROUP}{separator}{_SERIAL}{after}"


_BEFORE_LOOSE, _AFTER_LOOSE = r"(?:^|[^0-9\-]|(?:^|[^0-9])-)", r"(?:$|[^0-9\-]|-(?:[^0-9]|$))"
_GROUPED_SSN = Pattern(
    "|".join(
        (
            *map(_grouped_ssn, (r"\-", r"\.", " ")),
            rf"{_BEFORE_LOOSE}{_AREA}{LOOSE}{_GROUP}{LOOSE}{_SERIAL}{_AFTER_LOOSE}",
        )
    )
)
_SSN_IN_ONE_GO = Pattern(
    rf"{SSN_WORD}[^0-9\n]*\n?[^0-9\n]*{_AREA}{_GROUP}{_SERIAL}(?:[^0-9]|$)|"
    rf"(?:^|[^0-9]){_AREA}{_GROUP}{_SERIAL}[^0-9A-Za-z\n]*{SSN_WORD}"
)
SSN_TRIGGER = SSN_WORD


def has_us_ssn(text: bytes) -> bool:
    """Whether folded `text` holds a US social security number.

    Rule: beside a word for it (SSN_WORDS), three, two and four digits with no further number joined on; or
    next to one nine digits in one go. There is no check digit, so without a word it is a part number as well.
    Area not 000, 666 or 900 to 999, group not 00, serial not 0000. Source: Social Security Administration,
    "The SSN Numbering Scheme" and the randomization rules of 2011.
    """
    return _GROUPED_SSN.occurs_in(SSN_WORDS.beside(text)) or _SSN_IN_ONE_GO.occurs_in(text)


_SSN_ALONE = re.compile(
    "|".join(
        rf"(?<![0-9])(?<![0-9]{separator}){_AREA}{separator}{_GROUP}{separator}{_SERIAL}"
        rf"(?![0-9])(?!{separator}[0-9])"
        for separator in (r"\-", r"\.", " ")
    ).encode()
)
_NINE_DIGITS = re.compile(rf"(?<![0-9]){_AREA}{_GROUP}{_SERIAL}(?![0-9])".encode())
_SSN_NAMED = Pattern(SSN_WORD)


def us_ssn_spans(text: bytes) -> Iterator[Span]:
    """Where `text` has US social security numbers: first and last offset of each.

    Nine digits in one go count anywhere in a text that has a word for them.
    """
    for match in _SSN_ALONE.finditer(text):
        yield match.span()
    if _SSN_NAMED.occurs_in(text):
        for match in _NINE_DIGITS.finditer(text):
            yield match.span()
