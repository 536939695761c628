"""How long the privacy detectors take: `python -m benchmarks.detectors` prints microseconds, best of five.

Benign texts are what applications send; hostile ones are made to cost much and to hold nothing. Times are
those of the thread's CPU, so that they hold on a busy machine. Exits 1 when a promise is broken.
"""

import random
import sys
import time
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import orjson

from gateway.core.catalog import Api
from gateway.core.masking import mask
from gateway.core.parse import parse_call
from gateway.core.restoring import Restorer, RestoringReader
from gateway.core.screening import Masking, Screening, screen
from gateway.core.sse import StreamReader
from gateway.detect import BUILT_IN, DETECTOR_NAMES, Detectors
from gateway.detect.custom import regex_detector, words_detector
from gateway.detect.text import find_text

MOST_US_A_HOSTILE_MEGABYTE = 100_000
SIZES = {"700 B": 700, "2 KB": 2_000, "64 KB": 64_000, "200 KB": 200_000, "1 MB": 1_000_000}

ENGLISH = (
    "Hello, please summarise this document for me: the meeting on 2026-11-01 at 10:30 took a while, and "
    "the order of 12 boxes at $1,299.00 was confirmed by phone. Which points are open, and who decides them? "
)
JAPANESE = "お世話になっております。来月の会議の資料（ABC版）をご確認ください。"
FULL_WIDTH = "ご注文番号は１２３４５号、合計は３，９８０円です。１０月３日（火）に発送します。"
EMOJI = "Thanks 👍🏽 see you at 10️⃣ o'clock, all good ❤️ and on time. "
CODE = "def total(rows: list[float]) -> float:\n    return sum(row * 1.1 for row in rows if row > 0.25)\n"

BENIGN = {
    "English": ENGLISH,
    "Japanese": JAPANESE,
    "full-width Japanese": FULL_WIDTH,
    "emoji": EMOJI,
    "code": CODE,
}

_random = random.Random(7)


def _hex_digests(size: int) -> str:
    return " ".join(f"{_random.getrandbits(256):064x}" for _ in range(size // 65))


def _floats(size: int) -> str:
    return ", ".join(repr(_random.random()) for _ in range(size // 20))


def _failing_ibans(size: int) -> str:
    return " ".join(f"SA44{_random.getrandbits(72):018X}"[:10] for _ in range(size // 11))


SUPPLIERS = ["".join(_random.choices("abcdefghijklmnopqrstuvwxyz", k=20)) for _ in range(50_000)]
MADE = {"hex digests": _hex_digests, "floats": _floats}
HOSTILE: dict[str, Callable[[int], str]] = {
    "fours": lambda size: "4" * size,
    "ones": lambda size: "1" * size,
    "digits, spaced": lambda size: "1 " * (size // 2),
    "4111 1111 1111 1112": lambda size: "4111 1111 1111 1112 " * (size // 20),
    "a@": lambda size: "a@" * (size // 2),
    "a@a.": lambda size: "a@a." * (size // 4),
    "a@a, a line each": lambda size: "a@a\n" * (size // 4),
    "git@a.aa": lambda size: "git@a.aa " * (size // 9),
    "eyJ.": lambda size: "eyJ." * (size // 4),
    "eyJ run": lambda size: "eyJ" * (size // 3),
    "sk-": lambda size: "sk-" * (size // 3),
    "token=": lambda size: "token=" * (size // 6),
    "GB82": lambda size: "GB82" * (size // 4),
    "failing IBAN": lambda size: "GB82WEST12345698765433 " * (size // 23),
    "SA44 heads": _failing_ibans,
    "123456789012": lambda size: "123456789012 " * (size // 13),
    "000-00-0000": lambda size: "000-00-0000 " * (size // 12),
    "ssn": lambda size: "ssn " * (size // 4),
    "full-width, mixed": lambda size: "1１" * (size // 4),
    "zero-width": lambda size: "1\u200b" * (size // 4),
    "marks": lambda size: "a" + "\u0300\u0316" * (size // 4),
    "backslashes": lambda size: "\\u" + "\\" * (size - 2),
    "%41 a": lambda size: "%41a" * (size // 4),
    "&#49; a": lambda size: "&#49;a" * (size // 6),
    "base64 words": lambda size: "aGVsbG8gd29ybGQhISE= " * (size // 21),
    "loose digits": lambda size: "4,1;" * (size // 4),
    "\\u0031 a": lambda size: "\\u0031a" * (size // 7),
}


def _of_size(sample: str, size: int) -> str:
    """About `size` bytes of `sample`, repeated."""
    return sample * max(1, size // len(sample.encode()))


def _microseconds(
    call: Callable[[], object], size: int, timer: Callable[[], float] = time.thread_time
) -> float:
    number = max(1, 2_000_000 // max(size, 700))
    return min(timeit.repeat(call, timer=timer, number=number, repeat=5)) / number * 1e6


def _row(detectors: Detectors, name: str, make: Callable[[int], str]) -> float:
    """Prints one line; gives the microseconds of the largest size."""
    cells = []
    for size in SIZES.values():
        text = make(size)
        # Two messages, as a chat has at least: the second view, joined with nothing, is part of the price.
        pieces = (text[: len(text) // 2], text[len(text) // 2 :])
        taken = _microseconds(partial(detectors.scan, pieces), size)
        cells.append(f"{taken:>10,.1f}")
    found = ", ".join(sorted(detectors.scan(pieces))) or "-"
    print(f"{name:<22}{''.join(cells)}   {found}", flush=True)
    return taken


def _chat(text: str) -> dict[str, object]:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": text},
    ]
    body = {"model": "auto", "messages": messages, "stream": True, "temperature": 0.2}
    return orjson.loads(orjson.dumps(body))


def _in_two_threads_at_once(detectors: Detectors) -> float:
    """How much longer two scans of 200 KB take in two threads than one alone: 1 is free, 2 is no gain."""
    texts = [[_of_size(ENGLISH, SIZES["200 KB"])] for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        alone = _microseconds(
            lambda: [detectors.scan(texts[0]) for _ in range(20)], SIZES["1 MB"], time.perf_counter
        )
        both = _microseconds(
            lambda: list(pool.map(lambda text: [detectors.scan(text) for _ in range(20)], texts)),
            SIZES["1 MB"],
            time.perf_counter,
        )
    return both / alone


def _beginnings(size: int) -> str:
    return " ".join(word[:-1] + "-" for word in SUPPLIERS)[:size]


def _with_own_detectors() -> Detectors:
    own = {
        "employee": regex_detector("E[0-9]{6}"),
        "account": regex_detector("[0-9]{10}", "luhn"),
        "projects": words_detector([f"project{number}" for number in range(500)] + ["カワセミ計画"]),
        "suppliers": words_detector(SUPPLIERS),
    }
    return Detectors((*DETECTOR_NAMES, *own), {**BUILT_IN, **own})


def _print_masking() -> None:
    classes = ("public", "internal", "confidential", "restricted")
    detectors = Detectors(DETECTOR_NAMES)
    raise_to = dict.fromkeys(DETECTOR_NAMES, "confidential")
    plain = Screening(classes=classes, detectors=detectors, raise_to=raise_to)
    home = dict.fromkeys(classes, frozenset({"local"}))
    masking = Screening(
        classes=classes,
        detectors=detectors,
        raise_to=raise_to,
        masking=Masking(detectors=detectors, home=home),
    )
    values = "bob@example.com, 4111 1111 1111 1111 and GB82 WEST 1234 5698 7654 32. "
    for name, text in (
        ("2 KB without values", _of_size(ENGLISH, 2_000)),
        ("2 KB with 3 values", values + _of_size(ENGLISH, 2_000)),
        ("64 KB with 3 values", values + _of_size(ENGLISH, 64_000)),
    ):
        call, body = parse_call(Api.CHAT, orjson.dumps(_chat(text)), 100)
        cells = [
            _microseconds(partial(screen, call, body, kind, "internal"), len(text))
            for kind in (plain, masking)
        ]
        print(f"screen(), {name:<20} {cells[0]:>9,.1f} us, of a feature that masks {cells[1]:>9,.1f} us")
    call, body = parse_call(Api.CHAT, orjson.dumps(_chat(values)), 100)
    restorer = Restorer(mask(body, call.rest, detectors, frozenset(detectors.names)))
    chunk = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
    readers = StreamReader(hide_usage=True), RestoringReader(restorer, hide_usage=True)
    for reader in readers:
        reader.feed(chunk)
    plain_us, restoring_us = (_microseconds(partial(reader.feed, chunk), 100) for reader in readers)
    print(f"an event of a stream: {plain_us:.2f} us, of a masked request {restoring_us:.2f} us")


def main() -> None:
    detectors = Detectors(DETECTOR_NAMES)
    print(f"{'scan(), CPU us':<22}" + "".join(f"{name:>10}" for name in SIZES) + "   found at 1 MB")
    for name, sample in BENIGN.items():
        _row(detectors, name, partial(_of_size, sample))
    for name, make in MADE.items():
        _row(detectors, name, make)
    slowest = max((_row(detectors, name, make), name) for name, make in HOSTILE.items())
    print("\nwith 501 and 50,000 words, an expression and one with a check digit beside the built-in ones")
    own = _with_own_detectors()
    for name, sample in BENIGN.items():
        _row(own, name, partial(_of_size, sample))
    for name, make in (
        ("ones", HOSTILE["ones"]),
        ("project99x", lambda size: "project99x " * (size // 11)),
        ("beginnings of words", _beginnings),
    ):
        slowest = max(slowest, (_row(own, name, make), f"{name}, own detectors"))
    print()
    _print_masking()
    found_us = _microseconds(partial(find_text, _chat(_of_size(ENGLISH, 700))), 700)
    print(f"\nfind_text(), two messages: {found_us:.2f} us")
    print(f"two threads against one: {_in_two_threads_at_once(detectors):.2f} times as long")
    held = slowest[0] < MOST_US_A_HOSTILE_MEGABYTE
    verdict = "holds" if held else "MISSED"
    print(f"1 MB of hostile text: at most {slowest[0] / 1e3:.1f} ms ({slowest[1]}), aim 100: {verdict}")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
