"""Payment card numbers: issuer prefix, length, grouping and the Luhn digit."""

import re
from collections.abc import Callable, Iterator

from gateway.detect.candidates import any_passes
from gateway.detect.checksums import ean13_holds, luhn_holds
from gateway.detect.context import CARD_WORDS
from gateway.detect.detector import without
from gateway.detect.engine import Pattern, Span
from gateway.detect.grouping import DIGITS_TRIGGER, LOOSE, LOOSE_TRIGGER, with_single_spaces
from gateway.detect.ids import iban_spans

# A card is written in one go or in its own groups, with a space or two, a dot, a dash or " - " between
# them. Each rest is what follows the first four digits.
_GAP = r"(?: ?[.\-] ?| {1,2})?"
_REST_OF_13 = rf"(?:(?:{_GAP}[0-9]{{3}}){{3}}|(?:{_GAP}[0-9]{{4}}){{2}}{_GAP}[0-9])"
_REST_OF_14 = rf"{_GAP}[0-9]{{6}}{_GAP}[0-9]{{4}}"
_REST_OF_15 = rf"(?:{_GAP}[0-9]{{6}}{_GAP}[0-9]{{5}}|(?:{_GAP}[0-9]{{4}}){{2}}{_GAP}[0-9]{{3}})"
_REST_OF_16 = rf"(?:(?:{_GAP}[0-9]{{4}}){{3}}|[0-9]{{2}}{_GAP}[0-9]{{10}})"
_REST_OF_17_18 = rf"(?:{_GAP}[0-9]{{4}}){{3}}{_GAP}[0-9]{{1,2}}"
_REST_OF_19 = rf"(?:(?:{_GAP}[0-9]{{4}}){{3}}{_GAP}[0-9]{{3}}|[0-9]{{2}}{_GAP}[0-9]{{13}})"

# Second to fourth digit of the issuers' published ranges.
_MASTERCARD_5 = "[1-5][0-9]{2}"
_MASTERCARD_2 = "(?:2(?:2[1-9]|[3-9][0-9])|[3-6][0-9]{2}|7(?:[01][0-9]|20))"
_AMEX = "[47][0-9]{2}"
_JCB = "5(?:2[89]|[3-8][0-9])"
_DINERS = "(?:0[0-5][0-9]|095|[689][0-9]{2})"
_DISCOVER_UNIONPAY = "(?:011|4[4-9][0-9]|5[0-9]{2}|2[0-9]{2})"
_MIR = "20[0-4]"
_MAESTRO_5, _MAESTRO_6 = "(?:0(?:18|20|38)|893)", "(?:304|759|76[123])"

_BEFORE, _AFTER = "(?<![0-9~].)", "(?![0-9~])"  # `~` is where a run was cut


# Fully grouped.
_BREAK = r"(?: ?[.\-] ?| {1,2})"
_GROUPED_16 = rf"(?:{_BREAK}[0-9]{{4}}){{3}}"
_GROUPED_15 = rf"(?:{_BREAK}[0-9]{{6}}{_BREAK}[0-9]{{5}}|(?:{_BREAK}[0-9]{{4}}){{2}}{_BREAK}[0-9]{{3}})"


def _common(rest_of_16: str, rest_of_15: str, before: str = "", after: str = "") -> str:
    """The common lengths. One alternative for each first digit, which the engine can skip to; the rest is
    looked ahead at, so that the next candidate can begin one digit on."""
    return "|".join(
        (
            rf"4{before}(?=([0-9]{{3}}{rest_of_16}){after})",
            rf"5{before}(?=({_MASTERCARD_5}{rest_of_16}){after})",
            rf"2{before}(?=({_MASTERCARD_2}{rest_of_16}){after})",
            rf"6{before}(?=({_DISCOVER_UNIONPAY}{rest_of_16}){after})",
            rf"3{before}(?=({_JCB}{rest_of_16}|{_AMEX}{rest_of_15}){after})",
        )
    )


_ANYWHERE = re.compile(_common(_REST_OF_16, _REST_OF_15).encode())
# Between other characters than digits, or in groups.
_COMMON = re.compile(
    f"{_common(_REST_OF_16, _REST_OF_15, _BEFORE, _AFTER)}|{_common(_GROUPED_16, _GROUPED_15)}".encode()
)

# Uncommon lengths and issuers, only between other characters than digits.
_REST_OF_16_TO_19 = f"(?:{_REST_OF_19}|{_REST_OF_17_18}|{_REST_OF_16})"
_ALONE = re.compile(
    "|".join(
        (
            rf"4{_BEFORE}(?=([0-9]{{3}}(?:{_REST_OF_19}|{_REST_OF_13})){_AFTER})",
            rf"5{_BEFORE}(?=({_MAESTRO_5}{_REST_OF_16_TO_19}){_AFTER})",
            rf"2{_BEFORE}(?=({_MIR}{_REST_OF_16_TO_19}){_AFTER})",
            rf"6{_BEFORE}(?=((?:{_DISCOVER_UNIONPAY}|{_MAESTRO_6}){_REST_OF_16_TO_19}){_AFTER})",
            rf"3{_BEFORE}(?=((?:{_JCB}{_REST_OF_16_TO_19}|{_DINERS}(?:{_REST_OF_14}|{_REST_OF_16}))){_AFTER})",
        )
    ).encode()
)

# Dictated digit by digit: "4 1 1 1 ...".
_SPELLED = re.compile(rb"[2-6](?<![0-9~][2-6])(?<![0-9][ .\-][2-6])(?:[ .\-][0-9]){14,15}(?![ .\-]?[0-9~])")

_RUN = re.compile(rb"[0-9][0-9 .\-]{12,}")
_SEPARATORS = b" .-"

# What stands between the cells of a table, the values of a list, or in place of a space.
_LOOSE_RUN = re.compile(rb"(?<![0-9])[0-9]{1,6}(?:" + LOOSE.encode() + rb"[0-9]{1,6}){2,}+")
_MAYBE_LOOSE = Pattern(LOOSE_TRIGGER)
CARD_TRIGGER = f"{DIGITS_TRIGGER}|{LOOSE_TRIGGER}"

_DOT, _NO_DOT = re.compile(rb"[0-9]\.[0-9]"), re.compile(rb"[0-9][ \-]+[0-9]")
# A digit without a gap, or another group of four; and two more of them.
_GROUP_BEFORE = re.compile(rb"[0-9~]\Z|(?<![0-9])[0-9]{4}[ .\-]{1,3}\Z")
_GROUP_AFTER = re.compile(rb"[0-9~]|[ .\-]{1,3}[0-9]{4}(?![0-9])")
_GROUPS_BEFORE = re.compile(rb"(?:(?<![0-9])[0-9]{4}[ .\-]{1,3}){2}[0-9]{0,3}\Z")
_GROUPS_AFTER = re.compile(rb"[0-9]{0,3}(?:[ .\-]{1,3}[0-9]{4}(?![0-9])){2}")

# Numbers of machines that would pass for a card now and then: a float with seven decimals or more, and a time
# in nanoseconds or a recent snowflake id (19 digits from 15... on).
_MACHINE_NUMBER = re.compile(
    rb"(?:(?<![0-9])[0-9]{1,6}|(?<=~))\.[0-9]{7,}|(?<![0-9~])(?:1[5-9][0-9]{17}(?![0-9]))"
)

_DIGEST = re.compile(
    rb"(?<![0-9A-Za-z])(?:(?![0-9]+(?![0-9A-Za-z]))(?:[0-9a-f]{32,}|[0-9A-F]{32,})|0x[0-9A-Fa-f]{32,}|"
    rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})(?![0-9A-Za-z])"
)

# Whether to look for one at all.
_MAYBE_DIGEST = Pattern(
    "[0-9a-f]{32}|[0-9A-F]{32}|0x[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
)

_PART_BYTES = 64
_OVERLAP_BYTES = 48  # more than the longest card with its separators


def has_credit_card(text: bytes) -> bool:
    """Whether folded `text` holds a payment card number.

    Rule: a known issuer's prefix with one of its lengths, and a Luhn digit that holds; in a card's usual
    groups, whatever separates them, or in one go with no digit next to it. Beside a word for it (CARD_WORDS)
    also in one go: the lengths of which most numbers are ids (13, 17, 18, and 19 but for UnionPay), and the
    common lengths in the midst of other digits. Not a card: groups in a row of six or more, or with decimal
    points, a number with seven decimals or more, a 19-digit time or id beginning with 15 to 19, a 13-digit
    barcode, a part of a hexadecimal digest, UUID or IBAN. Source: ISO/IEC 7812-1 and the issuers' published
    number ranges.
    """
    if not _has_card_in(text):
        return False
    # Digests and IBANs are long enough to hold a card's digits by chance, and too common to be looked for
    # first.
    apart = _DIGEST.sub(b"x", text) if _MAYBE_DIGEST.occurs_in(text) else text
    apart = without(apart, iban_spans(apart))
    return apart == text or _has_card_in(apart)


def credit_card_spans(text: bytes) -> Iterator[Span]:
    """Where `text` has card numbers, beside a word or not: first and last offset of each.

    Asked of every text of a request in which one was found: its other numbers are cards more likely than not.
    """
    blanked = _DIGEST.sub(_blank, _MACHINE_NUMBER.sub(_blank, text))
    for pattern in (_ANYWHERE, _ALONE, _SPELLED):
        end = 0
        for match in pattern.finditer(blanked):
            span = match.start(), match.end(match.lastindex or 0)
            if span[0] >= end and _is_card(_digits_between(blanked, span)):
                yield span
                end = span[1]


def _blank(match: re.Match[bytes]) -> bytes:
    return b"x" * len(match[0])


def _digits_between(text: bytes, span: Span) -> bytes:
    return text[span[0] : span[1]].translate(None, _SEPARATORS)


def _has_card_in(text: bytes) -> bool:
    runs = _distinct_runs(text)
    if not runs or any_passes(_candidates(runs, _COMMON, _says_enough, _is_in_a_row), _is_card):
        return bool(runs)
    beside = _distinct_runs(CARD_WORDS.beside(text))
    return any_passes(_candidates(beside, _ANYWHERE, _any_length, _is_amid_a_row), _is_card)


def _says_enough(digits: bytes) -> bool:
    """Whether a number of an uncommon length or issuer in one go counts without a word beside it.

    Ids have 17 to 19 digits, and times and barcodes 13. Of the cards only UnionPay's have 19 now.
    """
    return len(digits) in {14, 16} or (len(digits) == 19 and digits.startswith(b"62"))


def _any_length(_: bytes) -> bool:
    return True


def _distinct_runs(text: bytes) -> bytes:
    """The digit runs of `text`, a line each, without repetitions.

    Long runs are cut into overlapping parts, so that a megabyte of a repeated number shrinks to a few lines.
    """
    lines: dict[bytes, None] = {}
    runs = _RUN.findall(text)
    if _MAYBE_LOOSE.occurs_in(text):
        runs += with_single_spaces(b"\0".join(_LOOSE_RUN.findall(text))).split(b"\0")
    for run in dict.fromkeys(runs):
        if len(run) <= _PART_BYTES + _OVERLAP_BYTES:
            lines[run] = None
        else:
            lines.update(dict.fromkeys(_parts(run)))
    return _MACHINE_NUMBER.sub(b"x", b"\n".join(lines))


def _parts(run: bytes) -> Iterator[bytes]:
    length = _PART_BYTES + _OVERLAP_BYTES
    return (b"~%b~" % run[start : start + length] for start in range(0, len(run), _PART_BYTES))


def _candidates(
    runs: bytes,
    common: re.Pattern[bytes],
    counts: Callable[[bytes], bool],
    is_in_a_row: Callable[[bytes, Span], bool],
) -> Iterator[bytes]:
    """The digits of what may be a card in `runs`. Uncommon ones in one go have to pass `counts`."""
    for match in common.finditer(runs):
        digits = _digits(match)
        if not _is_separated(match, digits) or not is_in_a_row(runs, _span(match)):
            yield digits
    for match in _ALONE.finditer(runs):
        digits = _digits(match)
        if not is_in_a_row(runs, _span(match)) if _is_separated(match, digits) else counts(digits):
            yield digits
    for match in _SPELLED.finditer(runs):
        digits = match[0].translate(None, _SEPARATORS)
        if _ANYWHERE.match(digits) or _ALONE.match(digits):
            yield digits


def _is_separated(match: re.Match[bytes], digits: bytes) -> bool:
    return len(digits) != match.end(match.lastindex or 0) - match.start()


def _digits(match: re.Match[bytes]) -> bytes:
    return (match[0] + match[match.lastindex or 0]).translate(None, _SEPARATORS)


def _span(match: re.Match[bytes]) -> Span:
    return match.start(), match.end(match.lastindex or 0)


def _is_amid_a_row(runs: bytes, span: Span) -> bool:
    """Whether more digits come before and after: then the groups are those of a table, not of a card."""
    start, end = span
    return bool(
        _GROUP_BEFORE.search(runs[max(0, start - 8) : start]) and _GROUP_AFTER.match(runs[end : end + 8])
    )


def _is_in_a_row(runs: bytes, span: Span) -> bool:
    """The same, or two groups more on one side, since a card may have its expiry or an id beside it; and dots
    beside other separators, which are decimal points.
    """
    start, end = span
    written = runs[start:end]
    return (
        _is_amid_a_row(runs, span)
        or (_DOT.search(written) is not None and _NO_DOT.search(written) is not None)
        or _GROUPS_BEFORE.search(runs[max(0, start - 16) : start]) is not None
        or _GROUPS_AFTER.match(runs[end : end + 16]) is not None
    )


def _is_card(digits: bytes) -> bool:
    return luhn_holds(digits) and not (len(digits) == 13 and ean13_holds(digits))
