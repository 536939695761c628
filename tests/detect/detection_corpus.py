"""Texts with sensitive values, and with what only looks like them: from one seed, so that everybody measures
the same.

True numbers stand in every spelling, and in sentences of sixteen languages and formats. False friends are
the ids, times, codes and digests that requests are full of; half of them stand below a system prompt that
speaks of cards and individual numbers.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

SEED = 20261201
CARD, MY_NUMBER = frozenset({"credit_card"}), frozenset({"jp_my_number"})


class Sample(NamedTuple):
    """`pieces` of a request of some `kind`, in which the detectors `holds` have something to find."""

    kind: str
    pieces: tuple[str, ...]
    holds: frozenset[str] = frozenset()


def digits(source: random.Random, count: int) -> str:
    return "".join(source.choices("0123456789", k=count))


def with_luhn_digit(number: str) -> str:
    total = 0
    for place, digit in enumerate(map(int, reversed(number))):
        doubled = digit * 2 if place % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return number + str(-total % 10)


def with_my_number_digit(number: str) -> str:
    total = sum(digit * (n + 1 if n <= 6 else n - 5) for n, digit in enumerate(map(int, reversed(number)), 1))
    return number + str(0 if total % 11 <= 1 else 11 - total % 11)


def with_ean_digit(number: str) -> str:
    total = sum(digit * (1 if place % 2 == 0 else 3) for place, digit in enumerate(map(int, number)))
    return number + str(-total % 10)


def in_groups(number: str, sizes: Sequence[int], separator: str) -> str:
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + size)
    return separator.join(number[start:end] for start, end in pairwise(bounds))


def full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


# --- true ones ---

SEPARATORS = (" ", "-", ".", " - ", "\u00a0", "\u3000", "\u2011", "\u2013", "\u2212", "ー")
# Issuer: prefixes, length, usual groups.
CARDS = {
    "Visa": (("4",), 16, (4, 4, 4, 4)),
    "Mastercard": (("51", "53", "55", "2221", "2720"), 16, (4, 4, 4, 4)),
    "American Express": (("34", "37"), 15, (4, 6, 5)),
    "JCB": (("3528", "3560", "3589"), 16, (4, 4, 4, 4)),
    "Discover": (("6011", "644", "65"), 16, (4, 4, 4, 4)),
    "UnionPay": (("62",), 16, (4, 4, 4, 4)),
    "UnionPay of 19 digits": (("62",), 19, (4, 4, 4, 4, 3)),
    "Diners": (("36", "38", "300", "305"), 14, (4, 6, 4)),
    "Maestro": (("5018", "5020", "6304", "6759"), 16, (4, 4, 4, 4)),
    "Mir": (("2200", "2204"), 16, (4, 4, 4, 4)),
}
# Only beside a word, or in groups: most numbers of these lengths are ids.
CARDS_OF_ID_LENGTHS = {
    "Visa of 13 digits": (("4",), 13, (4, 3, 3, 3)),
    "Visa of 19 digits": (("4",), 19, (4, 4, 4, 4, 3)),
    "Maestro of 18 digits": (("5018", "6304"), 18, (4, 4, 4, 4, 2)),
}
CARD_SENTENCES = (
    "Please charge my card {}, it expires 12/29.",
    "Card number: {}\nCVV: 123",
    "クレジットカードの番号は{}です。",
    "カード番号：{}（有効期限 12/29）",
    "我的信用卡号是{}，请扣款。",
    "신용카드 번호는 {} 입니다.",
    "Meine Kreditkarte hat die Nummer {}.",
    "Ma carte bancaire : {}, merci.",
    "Mi tarjeta de crédito es {}.",
    "O número do meu cartão é {}.",
    "La mia carta di credito è {}.",
    "Mijn kaart heeft nummer {}.",
    "Numer mojej karty to {}.",
    "Номер моей карты {}.",
    "Kart numaram {}.",
    '{{"card_number": "{}", "exp": "12/29"}}',
    "name,card_no,exp\nTanaka,{},12/29\n",
)
SENTENCES_WITHOUT_A_WORD = (
    "{}",
    "Here it is: {}",
    "it's {} exp 12/29",
    "番号は{}です",
    "<td>{}</td>",
    "2026-11-01T10:00:00Z INFO body={}",
    "- {}\n- next",
)
MY_NUMBER_SENTENCES = (
    "マイナンバーは{}です。",
    "個人番号：{}",
    "ﾏｲﾅﾝﾊﾞｰ {}",
    "私のマイナンバー（12桁）をお送りします。ご確認のほどよろしくお願いいたします。\n{}",
    "My Number: {}",
    "Her individual number is {}.",
    '{{"my_number": "{}"}}',
    '{{"myNumber":{}}}',
    "name,個人番号\n田中,{}\n",
    "我的个人编号是{}。",
)


def card(source: random.Random, prefixes: Sequence[str], length: int) -> str:
    prefix = source.choice(prefixes)
    while True:
        number = with_luhn_digit(prefix + digits(source, length - len(prefix) - 1))
        if length != 13 or with_ean_digit(number[:-1]) != number:  # what is a barcode too counts as one
            return number


def _spellings(number: str, groups: Sequence[int]) -> Iterator[str]:
    """`number` in one go, also at full width and with something unseen in it, and in groups."""
    yield number
    yield full_width(number)
    yield from (in_groups(number, groups, separator) for separator in SEPARATORS)
    yield full_width(in_groups(number, groups, "-"))
    yield number[:4] + "\u200b" + number[4:]
    if len(number) in {15, 16}:
        yield " ".join(number)


def true_cards() -> Iterator[Sample]:
    source = random.Random(SEED)
    for kinds, everywhere in ((CARDS, True), (CARDS_OF_ID_LENGTHS, False)):
        for kind, (prefixes, length, groups) in kinds.items():
            for sentence in (*CARD_SENTENCES, *SENTENCES_WITHOUT_A_WORD):
                number = card(source, prefixes, length)
                for spelled in _spellings(number, groups):
                    one_go = len(full_width(spelled.replace("\u200b", ""))) == length
                    if everywhere or sentence in CARD_SENTENCES or not one_go:
                        yield Sample(kind, (sentence.format(spelled),), CARD)
            for cut in range(1, length):
                number = card(source, prefixes, length)
                yield Sample(kind, ("The card:", number[:cut], number[cut:]), CARD)


def true_individual_numbers() -> Iterator[Sample]:
    source = random.Random(SEED + 1)

    def number() -> str:
        return with_my_number_digit(source.choice("123456789") + digits(source, 10))

    for _ in range(20):
        for sentence in MY_NUMBER_SENTENCES:
            yield Sample("beside a word", (sentence.format(number()),), MY_NUMBER)
            yield Sample("beside a word", (sentence.format(full_width(number())),), MY_NUMBER)
            yield Sample(
                "beside a word", ("マイナンバーを教えてください。", f"はい、{number()} です。"), MY_NUMBER
            )
            for separator in (" ", "-", ".", "\u3000", "\u2013", "ー"):
                yield Sample(
                    "in groups", (sentence.format(in_groups(number(), (4, 4, 4), separator)),), MY_NUMBER
                )


# --- false friends ---

FALSE_SENTENCES = (
    "{}",
    "The user {} wrote in the channel again.",
    "Please look up {} and tell me what happened.",
    "{} について教えてください。",
    '{{"id": "{}", "ok": true}}',
    "id,status\n{},done\n",
    "2026-11-01T10:00:00Z WARN retry of {} failed",
)
SYSTEM_PROMPT = (
    "You are the assistant of a shop. Never ask for a credit card number, and never repeat one. Never ask "
    "for anybody's My Number (マイナンバー). Answer in the language of the customer. "
    + "Be short and polite. "
    * 30
)


def _discord_id(source: random.Random) -> str:
    return str(source.randrange(40_000_000_000, 375_000_000_000) << 22 | source.getrandbits(22))


def _x_id(source: random.Random) -> str:
    return str(source.randrange(50_000_000_000, 505_000_000_000) << 22 | source.getrandbits(22))


def _instagram_id(source: random.Random) -> str:
    return str(source.randrange(150_000_000_000, 480_000_000_000) << 23 | source.getrandbits(23))


def _order(*lengths: int) -> Callable[[random.Random], str]:
    return lambda source: "-".join(
        source.choice("123456789") + digits(source, length - 1) for length in lengths
    )


def _dated_order(source: random.Random) -> str:
    day = f"2026{source.randrange(1, 13):02d}{source.randrange(1, 29):02d}"
    return day + digits(source, source.choice((4, 8)))


def _isbn(source: random.Random) -> str:
    number = with_ean_digit("9784" + digits(source, 8))
    return source.choice((number, in_groups(number, (3, 1, 5, 3, 1), "-"), f"ISBN {number}"))


def _barcode(source: random.Random) -> str:
    return with_ean_digit(source.choice(("49", "45")) + digits(source, 10))


def _digest(source: random.Random) -> str:
    name = source.choice(("md5", "sha1", "sha256", "sha512"))
    return hashlib.new(name, digits(source, 20).encode()).hexdigest()


def _uuid(source: random.Random) -> str:
    return in_groups(f"{source.getrandbits(128):032x}", (8, 4, 4, 4, 12), "-")


def _time(source: random.Random) -> str:
    seconds = source.randrange(1_600_000_000, 1_800_000_000)
    return f"{seconds}{digits(source, source.choice((3, 6, 9)))}"


def _imei(source: random.Random) -> str:
    return with_luhn_digit("35" + digits(source, 12))


def _parcel(source: random.Random) -> str:
    label = source.choice(("お問い合わせ番号：", "伝票番号 ", "tracking no. "))
    return label + in_groups(_order(12)(source), (4, 4, 4), "-")


def _long_parcel(source: random.Random) -> str:
    return "94" + digits(source, 20)


def _phone(source: random.Random) -> str:
    return f"+49 {source.randrange(150, 180)} {digits(source, 4)} {digits(source, 4)}"


def _figures(source: random.Random) -> str:
    return ", ".join(repr(source.random() * 100) for _ in range(3))


# What it is -> how one is made.
FALSE_FRIENDS: dict[str, Callable[[random.Random], str]] = {
    "Discord ids": _discord_id,
    "X ids": _x_id,
    "Instagram ids": _instagram_id,
    "numbers of 12 digits": _order(12),
    "numbers of 13 digits": _order(13),
    "numbers of 14 digits": _order(14),
    "numbers of 16 digits": _order(16),
    "numbers of 18 digits": _order(18),
    "orders with a date": _dated_order,
    "orders 3-7-7": _order(3, 7, 7),
    "ISBNs": _isbn,
    "barcodes": _barcode,
    "digests": _digest,
    "UUIDs": _uuid,
    "Ethereum addresses": lambda source: f"0x{source.getrandbits(160):040x}",
    "times": _time,
    "IMEIs": _imei,
    "parcels 4-4-4": _parcel,
    "parcels of 22 digits": _long_parcel,
    "telephone numbers": _phone,
    "decimal numbers": _figures,
}
OF_EACH = 400


def false_friends() -> Iterator[Sample]:
    for kind, make in FALSE_FRIENDS.items():
        source = random.Random(f"{SEED} {kind}")
        for number in range(OF_EACH):
            text = source.choice(FALSE_SENTENCES).format(make(source))
            yield Sample(kind, (SYSTEM_PROMPT, text) if number % 2 else (text,))
