"""What is fuzzed: a reader of bytes from outside, and what must hold for any bytes.

A target's `check(data, cuts)` reads `data` whole and once more cut at `cuts`. It raises AssertionError where
the two differ, or whatever else the reader raised that its docstring does not name. Its corpus is the folder
`tests/fuzz/corpus/<name>/`, one input a file. Cuts stand in a name behind `@`, as in `found-1a2b@17,18`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES = 4096
LONG_BYTES = 1500  # an input beyond it is not cut at every byte


class Target(NamedTuple):
    """`tokens` are pieces of the language that the reader knows: mutations put them in.

    One input may take `steps[0] + steps[1] * bytes + steps[2] * segments` lines of the gateway's code.
    """

    name: str
    check: Callable[[bytes, Sequence[int]], None]
    tokens: Sequence[bytes]
    steps: tuple[int, int, int]

    @property
    def folder(self) -> Path:
        return CORPUS / self.name

    def most_steps(self, data: bytes, cuts: Sequence[int]) -> int:
        once, by_byte, by_segment = self.steps
        return once + by_byte * len(data) + by_segment * (len(cuts) + 1)


class Seed(NamedTuple):
    """One file of the corpus."""

    name: str
    data: bytes
    cuts: tuple[int, ...]


def seeds(target: Target) -> list[Seed]:
    found = [_seed(path) for path in sorted(target.folder.iterdir())]
    assert found, f"{target.folder} is empty"
    return found


def _seed(path: Path) -> Seed:
    _, _, places = path.name.partition("@")
    return Seed(path.name, path.read_bytes(), tuple(map(int, places.split(","))) if places else ())


def ways_to_cut(seed: Seed) -> Iterator[Sequence[int]]:
    """Its own cuts, byte by byte, and at each byte alone."""
    yield seed.cuts
    if len(seed.data) <= LONG_BYTES:
        yield range(1, len(seed.data))
        yield from ((at,) for at in range(1, len(seed.data)))


def segments(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`data` cut at `cuts`, whatever they are; no segment is empty."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


# --- inputs ---


@st.composite
def inputs(draw: st.DrawFn, target: Target) -> tuple[bytes, list[int]]:
    """A file of the corpus, changed in a few places, and where it is cut. Now and then just bytes."""
    known = [seed.data for seed in seeds(target)]
    data = draw(st.sampled_from(known) | st.binary(max_size=64))
    for _ in range(draw(st.integers(0, 6))):
        data = draw(_changed(data, known, target.tokens))
    return data[:MOST_BYTES], draw(st.lists(st.integers(0, MOST_BYTES), max_size=12))


def _changed(data: bytes, known: Sequence[bytes], tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One change: a stretch replaced by bytes, a token, a stretch of a file, or itself many times."""
    places = st.integers(0, len(data))
    stretches = st.tuples(places, places).map(lambda ends: (min(ends), max(ends)))
    here = st.tuples(places, st.integers(0, 3)).map(lambda place: (place[0], sum(place)))
    new = st.one_of(
        st.sampled_from(tokens or [b""]),
        st.binary(max_size=4),
        st.tuples(st.sampled_from(known), places, places).map(lambda part: part[0][part[1] : part[2]]),
        st.tuples(st.sampled_from(tokens or [b"\0"]), st.sampled_from((2, 16, 300))).map(
            lambda part: part[0] * part[1]
        ),
    )
    return st.builds(
        lambda stretch, put: data[: stretch[0]] + put + data[stretch[1] :],
        stretches | here | here.map(lambda place: (place[0], place[0])),
        new | st.just(b""),
    )
