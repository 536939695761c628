"""Documents as companies have them: code, tables, logs, conversations and invoices in English and Japanese.

Each is a template of `templates/`, a file for each kind, filled with made-up values that look real. The names
of the values say which detectors have something to find. From one seed, like the rest of the corpus.
"""

import base64
import random
import re
import string
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tests.detect.detection_corpus as corpus

TEMPLATES = Path(__file__).parent / "templates"
OF_EACH_TEMPLATE = 40

_VALUE = re.compile(r"(?<![{$])\{([a-z_0-9]+)\}")
Make = Callable[[random.Random], str]

_LOWER, _UPPER = string.ascii_lowercase, string.ascii_uppercase
_NAMES = ("bob", "ann.lee", "k.tanaka", "maria_lopez", "j-smith", "suzuki", "o.petrov", "li.wei")
_HOSTS = ("example.com", "mail.example.co.uk", "acme.example.jp", "uni.example.de", "example.io")


def _letters(source: random.Random, alphabet: str, count: int) -> str:
    return "".join(source.choices(alphabet, k=count))


def _hex(count: int) -> Make:
    return lambda source: _letters(source, "0123456789abcdef", count)


def _alphanumeric(count: int) -> Make:
    return lambda source: _letters(source, string.ascii_letters + string.digits, count)


def _number(length: int) -> Make:
    return lambda source: source.choice("123456789") + corpus.digits(source, length - 1)


def _grouped(*sizes: int, separators: str) -> Make:
    def make(source: random.Random) -> str:
        return corpus.in_groups(_number(sum(sizes))(source), sizes, source.choice(separators))

    return make


def _card(source: random.Random) -> str:
    prefixes, length, groups = source.choice(list(corpus.CARDS.values()))
    number = corpus.card(source, prefixes, length)
    return source.choice((number, *(corpus.in_groups(number, groups, sign) for sign in (" ", "-", " "))))


def _my_number(source: random.Random) -> str:
    number = corpus.with_my_number_digit(_number(11)(source))
    return source.choice((number, corpus.in_groups(number, (4, 4, 4), source.choice(" -"))))


def _ssn(source: random.Random) -> str:
    area = source.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03d}-{source.randrange(1, 100):02d}-{source.randrange(1, 10_000):04d}"


def _iban(source: random.Random) -> str:
    country, length = source.choice((("DE", 18), ("AT", 16), ("ES", 20), ("BE", 12), ("PL", 24), ("DK", 14)))
    account = corpus.digits(source, length)
    as_number = int("".join(str(int(sign, 36)) for sign in f"{account}{country}00"))
    iban = f"{country}{98 - as_number % 97:02d}{account}"
    return source.choice((iban, " ".join(iban[n : n + 4] for n in range(0, len(iban), 4))))


def _secret(source: random.Random) -> str:
    mixed = _alphanumeric(36)(source)
    token = mixed[:20] + "-" + mixed[21:]
    return source.choice(
        (
            f"ghp_{mixed}",
            f"glpat-{token[:20]}",
            f"sk-proj-{token}",
            f"sk-ant-api03-{token}",
            f"AIza{mixed[:35]}",
            f"npm_{mixed}",
            f"pypi-AgEIcHlwaS5vcmc{mixed}",
            f"hf_{mixed[:34]}",
            f"rk_live_{mixed[:24]}",
            f"SG.{mixed[:22]}.{mixed}",
            f"xoxb-{corpus.digits(source, 12)}-{mixed[:24]}",
            f"{corpus.digits(source, 10)}:AA{mixed[:33]}",
            f"whsec_{mixed[:32]}",
        )
    )


def _password(source: random.Random) -> str:
    signs = _letters(source, _LOWER, 6) + corpus.digits(source, 2) + source.choice("!$#_-+") + "X"
    return source.choice(_LOWER) + "".join(source.sample(signs, len(signs))) + source.choice("123456789")


def _webhook(source: random.Random) -> str:
    mixed = _alphanumeric(64)(source)
    return source.choice(
        (
            f"https://hooks.slack.com/services/T{mixed[:8].upper()}/B{mixed[8:16].upper()}/{mixed[16:40]}",
            f"https://discord.com/api/webhooks/{_number(18)(source)}/{mixed}",
            f"https://acme.webhook.office.com/webhookb2/{_uuid(source)}@{_uuid(source)}/IncomingWebhook/{mixed}",
        )
    )


def _jwt(source: random.Random) -> str:
    def part(text: str) -> str:
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    claims = f'{{"sub":"{_number(8)(source)}","iat":{_number(10)(source)}}}'
    head = part('{"alg":"HS256"}')
    return f"{head}.{part(claims)}.{_alphanumeric(43)(source)}"


def _basic(source: random.Random) -> str:
    return base64.b64encode(f"{source.choice(_NAMES)}:{_password(source)}".encode()).decode()


def _uuid(source: random.Random) -> str:
    return corpus.in_groups(_hex(32)(source), (8, 4, 4, 4, 12), "-")


def _phone(source: random.Random) -> str:
    three = corpus.digits(source, 3)
    return source.choice(
        (f"555-{three}-{corpus.digits(source, 4)}", f"+1 555 {three} {corpus.digits(source, 4)}")
    )


def _floats(count: int, lowest: float, highest: float) -> Make:
    def make(source: random.Random) -> str:
        separator = source.choice((", ", " ", ",", "\t"))
        written = source.choice((repr, "{:.4f}".format, "{:.6f}".format))
        return separator.join(written(source.uniform(lowest, highest)) for _ in range(count))

    return make


def _integers(source: random.Random) -> str:
    return source.choice((", ", " ", ",", "\t")).join(_number(4)(source) for _ in range(12))


def _coordinates(source: random.Random) -> str:
    return f"{source.uniform(-90, 90):.6f},{source.uniform(-180, 180):.6f}"


def _date(source: random.Random) -> str:
    return f"{source.randrange(2020, 2030)}-{source.randrange(1, 13):02d}-{source.randrange(1, 29):02d}"


def _isbn(source: random.Random) -> str:
    return corpus.in_groups(corpus.with_ean_digit("978" + corpus.digits(source, 9)), (3, 1, 5, 3, 1), "-")


# What is sensitive: detector -> values by the name that templates have for them. Names in `_far` and `_bare`
# stand where nothing beside them says what they are.
SENSITIVE: Mapping[str, Mapping[str, Make]] = {
    "email": {
        "email": (email := lambda source: f"{source.choice(_NAMES)}@{source.choice(_HOSTS)}"),
        "email_wide": lambda source: corpus.full_width(email(source)),
    },
    "credit_card": {"card": _card, "card_wide": lambda source: corpus.full_width(_card(source))},
    "iban": {"iban": _iban},
    "jp_my_number": {"my_number": _my_number, "my_number_far": _my_number},
    "us_ssn": {"ssn": _ssn, "ssn_far": _ssn, "ssn_bare": _ssn},
    "secret": {
        "secret": _secret,
        "aws": lambda source: "AKIA" + _letters(source, _UPPER + "234567", 16),
        "password": _password,
        "password_far": _password,
        "opaque": lambda source: "a1" + _alphanumeric(30)(source),
        "basic": _basic,
        "jwt": _jwt,
        "webhook": _webhook,
    },
}
INNOCENT: Mapping[str, Make] = {
    "part": _grouped(3, 2, 4, separators="-"),
    "part_far": _grouped(3, 2, 4, separators="-"),
    "account": _number(12),
    "account_grouped": _grouped(4, 4, 4, separators=" -"),
    "tracking": _number(12),
    "order": lambda source: _number(source.choice((7, 8, 9, 10)))(source),
    "ints12": _integers,
    "floats4": _floats(4, 0, 100),
    "floats20": _floats(20, 0, 10),
    "big_floats4": _floats(4, 1_000, 10_000),
    "big_floats20": _floats(20, 1_000, 10_000),
    "coordinates": _coordinates,
    "digits1": _number(1),
    "digits2": _number(2),
    "digits3": _number(3),
    "digits4": _number(4),
    "amount": lambda source: f"{source.randrange(1, 9_999)}.{source.randrange(100):02d}",
    "date": _date,
    "iso": lambda source: f"{_date(source)}T10:{source.randrange(60):02d}:07Z",
    "time": lambda source: str(source.randrange(1_600_000_000, 1_800_000_000)),
    "uuid": _uuid,
    "hex16": _hex(16),
    "sha1": _hex(40),
    "sha256": _hex(64),
    "png": lambda source: base64.b64encode(b"\x89PNG\r\n\x1a\n" + source.randbytes(300)).decode(),
    "isbn": _isbn,
    "jan": lambda source: corpus.with_ean_digit("49" + corpus.digits(source, 10)),
    "ip": lambda source: ".".join(str(source.randrange(1, 255)) for _ in range(4)),
    "phone": _phone,
    "phone_ja": lambda source: f"03-{corpus.digits(source, 4)}-{corpus.digits(source, 4)}",
}
_MAKERS = {**INNOCENT, **{name: make for makes in SENSITIVE.values() for name, make in makes.items()}}


def documents() -> Iterator[corpus.Sample]:
    """OF_EACH_TEMPLATE documents of each template; every value in them is made anew."""
    for path in sorted(TEMPLATES.glob("*.txt")):
        source = random.Random(f"{corpus.SEED} {path.stem}")
        for template in path.read_text().rstrip("\n").split("\n---\n"):
            yield from _filled(path.stem, template, source)


def _filled(kind: str, template: str, source: random.Random) -> Iterator[corpus.Sample]:
    names = set(_VALUE.findall(template))
    holds = frozenset(detector for detector, makes in SENSITIVE.items() if not names.isdisjoint(makes))
    for _ in range(OF_EACH_TEMPLATE):
        text = _VALUE.sub(lambda name: _MAKERS[name[1]](source), template)
        yield corpus.Sample(kind, (text.replace("{{", "{").replace("}}", "}"),), holds)
