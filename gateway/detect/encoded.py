"""Encoded text: base64 in a text, and what is compressed in it, read to a depth of two.

Which runs of letters and digits are base64 of text is seen by their shape: of four characters of such a run,
three can be only a part of the alphabet. So identifiers, digests and images are left alone.
"""

import binascii
import re
import zlib
from collections.abc import Iterator

MOST_DEPTH = 2
# Of one text. Past either, the search is given up.
MOST_RUNS = 10_000
MOST_UNPACKED_BYTES = 1 << 20

_ALPHABET = r"[0-9A-Za-z+/_\-]"
_LINE_BREAK = r"\r?\n[ \t]*"
# Twelve bytes of printable ASCII; four characters of Chinese, Japanese or Korean, or at full width; gzip; zlib.
_OF_ASCII = rf"(?:[I-Za-f][C-HS-Xi-ny-z0-3][ABEFIJMNQRUVYZcdghkloptswx014589]{_ALPHABET}){{4}}"
_OF_OTHERS = rf"(?:[4-7]{_ALPHABET}{{3}}){{4}}"
_PACKED = rf"(?:H4sI|eJ[w-z]|eN[o-r]){_ALPHABET}{{16}}"
NEEDS_DECODING = f"{_OF_ASCII}|{_OF_OTHERS}|{_PACKED}"

_TELLING = re.compile(NEEDS_DECODING)
_RUN = re.compile(
    rf"(?<!{_ALPHABET}){_ALPHABET}{{16,}}+(?:{_LINE_BREAK}{_ALPHABET}{{16,}}+)*+"
    rf"(?:{_LINE_BREAK}{_ALPHABET}{{1,15}}+)?"
)
_LINE_END = re.compile(_LINE_BREAK)
_STANDARD = str.maketrans("-_", "+/")
_PRINTABLE = re.compile(rb"[\t\n\r -~]{8,}")
_PACKED_HEAD = re.compile(rb"\x1f\x8b\x08|\A\x78[\x01\x5e\x9c\xda]")
_ANY_HEADER = 32 + zlib.MAX_WBITS


class TooMuchEncoded(Exception):
    """More is encoded in a text than is decoded for it."""


def decode(text: str) -> str:
    """`text` with what is encoded in it, and in that, in its place. Raises TooMuchEncoded."""
    decoder = _Decoder()
    for _ in range(MOST_DEPTH):
        if not _TELLING.search(text):
            break
        text = _RUN.sub(decoder.read, text)
    return text


class _Decoder:
    """Decodes the runs of one text, as many as it may."""

    __slots__ = ("_bytes", "_known")

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._bytes = MOST_UNPACKED_BYTES

    def read(self, match: re.Match[str]) -> str:
        run = match[0]
        text = self._known.get(run)
        if text is None:
            if not _TELLING.search(run):
                return run
            if len(self._known) == MOST_RUNS:
                raise TooMuchEncoded
            text = self._known[run] = "\n".join(self._readings(run))
        self._bytes -= max(len(text) - len(run), 0)
        if self._bytes < 0:
            raise TooMuchEncoded
        return text

    def _readings(self, run: str) -> Iterator[str]:
        """The text in `run`, for each of the four places where its first byte may begin."""
        plain = _LINE_END.sub("", run).translate(_STANDARD)
        for start in sorted({match.start() % 4 for match in _TELLING.finditer(plain)}):
            raw = _bytes_of(plain[start:])
            head = _PACKED_HEAD.search(raw)
            if head is not None:
                raw = self._unpacked(raw[head.start() :]) + b"\n" + raw[: head.start()]
            yield _text_of(raw)

    def _unpacked(self, packed: bytes) -> bytes:
        try:
            return zlib.decompressobj(_ANY_HEADER).decompress(packed, self._bytes + 1)
        except zlib.error:
            return b""


def _bytes_of(characters: str) -> bytes:
    whole = characters[: len(characters) - (len(characters) % 4 == 1)]
    return binascii.a2b_base64(whole + "=" * (-len(whole) % 4))


def _text_of(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "\n".join(part.decode("ascii") for part in _PRINTABLE.findall(raw))
