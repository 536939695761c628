"""The scenarios of the benchmarks as values. What they mean: benchmarks/README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from benchmarks import wire

if TYPE_CHECKING:
    from collections.abc import Callable


class Unary(msgspec.Struct, frozen=True):
    """wrk with `connections` that each send `request(model)` again when they have their answer."""

    name: str
    title: str
    connections: int
    request: Callable[[str], bytes] = wire.short_request
    rounds: int = 3
    long_bodies: bool = False


class Streams(msgspec.Struct, frozen=True):
    """`streams` at once: waves of `chunks`, one every `interval_ms` in each; and waves for first tokens."""

    name: str
    title: str
    streams: int
    interval_ms: float
    waves: int = 2
    chunks: int = 100
    first_token_waves: int = 5
    rounds: int = 3


class Idle(msgspec.Struct, frozen=True):
    """`streams` that have their first chunk and wait for the next: what each holds in memory."""

    name: str
    title: str
    streams: int
    interval_ms: float = 600_000


class Start(msgspec.Struct, frozen=True):
    """From exec to the first answer, and memory after two idle seconds."""

    name: str
    title: str
    rounds: int = 5


class Calls(msgspec.Struct, frozen=True):
    """Python calls and files of one warm request of Tollway, counted in memory: the same on any machine."""

    name: str
    title: str


class Overload(msgspec.Struct, frozen=True):
    """What is sustained by `connections` that each ask again at once, then arrivals at multiples of it.

    `chunks` of a stream, one every `interval_ms`; None: answers in one piece.
    """

    name: str
    title: str
    connections: int
    chunks: int | None = None
    interval_ms: float | None = None
    factors: tuple[float, ...] = (1, 2, 5)
    rounds: int = 3


class Slow(msgspec.Struct, frozen=True):
    """Requests of some, alone and beside `connections` of which thirds lie idle, drip heads, drip bodies."""

    name: str
    title: str
    connections: int
    rounds: int = 3


Scenario = Unary | Streams | Idle | Start | Calls | Overload | Slow

# All paces together are at most 20,000 chunks a second: what 50 us a chunk can carry on one core.
SCENARIOS: list[Scenario] = [
    Unary("unary-32", "700 bytes, 32 connections", 32, rounds=9),
    Unary("unary-1", "700 bytes, 1 connection", 1, rounds=9),
    Unary("unary-128", "700 bytes, 128 connections", 128),
    Unary("unary-512", "700 bytes, 512 connections", 512),
    Unary("prompt-100kb", "100 KB prompt, 32 connections", 32, wire.long_request, long_bodies=True),
    Unary("image-4mb", "4 MB image, 4 connections", 4, wire.image_request, long_bodies=True),
    Streams("streams-100", "100 streams", 100, 20, waves=3),
    Streams("streams-400", "400 streams", 400, 20),
    Streams("streams-1000", "1,000 streams", 1000, 50, waves=1, first_token_waves=3),
    Idle("idle-5000", "5,000 idle streams", 5000),
    Overload("overload-unary", "Overload, answers of 700 bytes", 64),
    Overload("overload-streams", "Overload, streams of 20 chunks", 256, chunks=20, interval_ms=5),
    Slow("slow-10000", "10,000 slow connections", 10_000),
    Start("start", "Start and memory"),
    Calls("calls", "Calls of one request"),
]


def chosen(words: list[str]) -> list[Scenario]:
    """The scenarios named by one of `words` or by what comes before the dash, or all of them.

    Raises ValueError for a word that names none.
    """
    for word in words:
        if not any(_named(scenario, word) for scenario in SCENARIOS):
            raise ValueError(f"{word} is none of {', '.join(one.name for one in SCENARIOS)}")
    return [one for one in SCENARIOS if not words or any(_named(one, word) for word in words)]


def _named(scenario: Scenario, word: str) -> bool:
    return word in (scenario.name, scenario.name.partition("-")[0])
