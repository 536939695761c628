"""A long run over the targets, one after the other in rounds, until time is over.

    make fuzz ARGS="--minutes 30 --target request_head --seed 7"

What fails is shrunk and stored in the target's corpus, where `make test` finds it from then on. Exit 1 then.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.all_targets import TARGETS
from tests.fuzz.steps import bounded
from tests.fuzz.target import Target, inputs

ROUND = 500  # inputs
HANG_SECONDS = 60  # steps inside of C libraries are not counted, so there a clock has to decide


class Options(NamedTuple):
    """One run. `most_rounds` ends it earlier."""

    targets: Sequence[Target]
    seconds: float
    seed: int
    most_rounds: int | None = None


class Found(NamedTuple):
    """An input for which a target does not hold, as small as it could be made."""

    target: str
    data: bytes
    cuts: tuple[int, ...]
    error: BaseException


class Hang(Exception):
    """One input took more than HANG_SECONDS."""


def fuzz(options: Options) -> list[Found]:
    """At most one find a target: what it hides comes up once it is mended."""
    ends_at = time.monotonic() + options.seconds
    left, found = list(options.targets), []
    inputs_read: Counter[str] = Counter()
    number = 0
    while left and time.monotonic() < ends_at and number != options.most_rounds:
        for target in tuple(left):
            result = _round(target, options.seed + number)
            inputs_read[target.name] += ROUND
            if result is not None:
                found.append(result)
                left.remove(target)
        number += 1
    for name, count in inputs_read.items():
        print(f"{name}: {count:,} inputs")
    return found


def _round(target: Target, number: int) -> Found | None:
    failing: list[tuple[bytes, list[int]]] = []

    def run_once(data: bytes, cuts: Sequence[int]) -> None:
        with _no_hang(), bounded(target.most_steps(data, cuts)):
            target.check(data, cuts)

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(inputs(target))
    def holds(given_input: tuple[bytes, list[int]]) -> None:
        data, cuts = given_input
        try:
            run_once(data, cuts)
        except BaseException:
            failing.append(given_input)
            raise

    try:
        holds()
    except Exception as error:
        # Hypothesis ends with the simplest input that fails so: few changes of a file, which may be long.
        data, cuts = failing[-1]
        return _smallest(Found(target.name, data, tuple(cuts), error), run_once)
    return None


def _smallest(found: Found, run_once: Callable[[bytes, Sequence[int]], None]) -> Found:
    """Without every stretch and every cut that is not needed for an error of the same type."""

    def fails(data: bytes, cuts: Sequence[int]) -> bool:
        try:
            run_once(data, cuts)
        except Exception as error:
            return type(error) is type(found.error)
        return False

    data = found.data
    cuts = sorted({cut % (len(data) + 1) for cut in found.cuts})
    size = len(data)
    while size := size // 2:
        at = 0
        while at < len(data):
            less = data[:at] + data[at + size :]
            moved = sorted({cut if cut <= at else max(cut - size, at) for cut in cuts})
            if fails(less, moved):
                data, cuts = less, moved
            else:
                at += size
    for cut in tuple(cuts):
        fewer = [other for other in cuts if other != cut]
        if fails(data, fewer):
            cuts = fewer
    return found._replace(data=data, cuts=tuple(cuts))


@contextmanager
def _no_hang() -> Iterator[None]:
    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise Hang(f"more than {HANG_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def store(found: Found, folder: Path) -> Path:
    """The file of the corpus in `folder` that holds it from now on."""
    name = f"found-{hashlib.sha256(found.data).hexdigest()[:10]}"
    if found.cuts:
        name += "@" + ",".join(map(str, sorted(set(found.cuts))))
    path = folder / name
    path.write_bytes(found.data)
    return path


def options_from(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="only this; may be repeated"
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given_options = parser.parse_args(arguments)
    names = given_options.target or list(TARGETS)
    return Options([TARGETS[name] for name in names], given_options.minutes * 60, given_options.seed)


def main() -> None:
    options = options_from(sys.argv[1:])
    print(f"seed {options.seed}, process {os.getpid()}")
    found = fuzz(options)
    for item in found:
        traceback.print_exception(item.error)
        print(f"{item.target}: {item.data!r} cut at {item.cuts}: {store(item, TARGETS[item.target].folder)}")
    print(f"{len(found)} found")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
