"""Encoded text: base64 in a text, and what is compressed in it, read to a depth of two.

Which runs of letters and digits are base64 of text is seen by their shape: of four characters of such a run,
three can be only a part of the alphabet. So identifiers, digests and images are left alone.
"""

import binascii
import re
import zlib
from collections.abc import Iterator
from itertools import islice

from gateway.detect.engine import Finder

MOST_DEPTH = 2
# Of one text. Past either, the search is given up.
MOST_RUNS = 10_000
MOST_UNPACKED_BYTES = 1 << 20

_ALPHABET = r"[0-9A-Za-z+/_\-]"
# Twelve bytes of printable ASCII.
_OF_ASCII = rf"(?:[I-Za-f][C-HS-Xi-ny-z0-3][ABEFIJMNQRUVYZcdghkloptswx014589]{_ALPHABET}){{4}}"
# Three characters of Chinese, Japanese or Korean, or at full width: three bytes each, of which the first
# stands at any of three places.
_OF_OTHERS = (
    rf"(?:[4-7][I-LY-bo-r4-7][CGKOSWaeimquy26+\-]{_ALPHABET}){{3}}|"
    rf"(?:[g-v][Oeu+\-]{_ALPHABET}{{2}}){{3}}|"
    r"(?:[g-v][I-LY-bo-r4-7][DHLPTXbfjnrvz37/_][j-pv]){3}"
)
_PACKED = rf"(?:H4sI|eJ[w-z]|eN[o-r]){_ALPHABET}{{16}}"
NEEDS_DECODING = f"{_OF_ASCII}|{_OF_OTHERS}|{_PACKED}"

_TELLING = Finder(NEEDS_DECODING)
# A run, and the ends of its lines, are seen as one word.
_CHARACTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/-_\r\n"
_TO_WORDS = bytes(0x61 if code in _CHARACTERS else 0x20 for code in range(256))
_INDENT = re.compile(rb"\n[ \t]+")
_STANDARD = bytes.maketrans(b"-_", b"+/")
# Words beside a number say what it is.
_CONTEXT_BYTES = 512
# A longer run is read from all four places.
_MOST_TELLING = 256
_READABLE = re.compile(rb"(?:[\t\n\r -~]|[\xc2-\xf4][\x80-\xbf]{1,3}){6,}")
_PACKED_HEAD = re.compile(rb"\x1f\x8b\x08|\A\x78[\x9c\xda]")
_ANY_HEADER = 32 + zlib.MAX_WBITS


class TooMuchEncoded(Exception):
    """More is encoded in a text than is decoded for it."""


def decode(text: bytes) -> bytes:
    """What is encoded in `text`, which is UTF-8, and in that, with what stands beside it.

    Empty where there is nothing. Raises TooMuchEncoded.
    """
    decoder = _RunDecoder()
    layers: list[bytes] = []
    for _ in range(MOST_DEPTH):
        text = b"".join(decoder.pieces(_INDENT.sub(b"\n", text)))
        layers.append(text)
    return b"\n".join(layers)


class _RunDecoder:
    """Decodes the runs of one text, as many as it may."""

    __slots__ = ("_bytes", "_known")

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}
        self._bytes = MOST_UNPACKED_BYTES

    def pieces(self, text: bytes) -> Iterator[bytes]:
        """Each run of `text` that tells of an encoding, decoded, between what stands near it."""
        words = text.translate(_TO_WORDS)
        at = told = 0
        while (telling := next(_TELLING.spans(text, at), None)) is not None:
            start = words.rfind(b" ", at, telling[0]) + 1 or at
            end = words.find(b" ", telling[1])
            yield text[max(at, start - _CONTEXT_BYTES) : start]
            at = end if end >= 0 else len(text)
            yield self._read(text[start:at])
            told = at + _CONTEXT_BYTES
        yield text[at:told]

    def _read(self, run: bytes) -> bytes:
        plain = self._known.get(run)
        if plain is None:
            if len(self._known) == MOST_RUNS:
                raise TooMuchEncoded
            plain = self._known[run] = b"\n".join(self._readings(run))
        self._spend(max(len(plain) - len(run), 0))
        return plain

    def _readings(self, run: bytes) -> Iterator[bytes]:
        """The text in `run`, for each of the four places where its first byte may begin."""
        characters = run.translate(_STANDARD, b"\r\n")
        telling = [start % 4 for start, _ in islice(_TELLING.spans(characters), _MOST_TELLING)]
        for start in sorted(set(telling)) if len(telling) < _MOST_TELLING else range(4):
            raw = _bytes_of(characters[start:])
            head = _PACKED_HEAD.search(raw)
            if head is not None:
                raw = self._unpacked(raw[head.start() :]) + b"\n" + raw[: head.start()]
            yield b"\n".join(_READABLE.findall(raw))

    def _unpacked(self, packed: bytes) -> bytes:
        try:
            plain = zlib.decompressobj(_ANY_HEADER).decompress(packed, self._bytes + 1)
        except zlib.error:
            return b""
        self._spend(len(plain))
        return plain

    def _spend(self, size: int) -> None:
        self._bytes -= size
        if self._bytes < 0:
            raise TooMuchEncoded


def _bytes_of(characters: bytes) -> bytes:
    whole = characters[: len(characters) - (len(characters) % 4 == 1)]
    return binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))
