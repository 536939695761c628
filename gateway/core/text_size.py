"""How many tokens a text may have, by what it consists of, and what usage has shown of a tokenizer.

Prose has four bytes for each token, digits three, base64 one and a half: one average for all of them is wrong
for each. So bytes are counted by class, and what usage teaches is kept by the class that made most of a
prompt's tokens: many prompts of digits say nothing about prose.
"""

from collections.abc import Mapping

from gateway.core.call import Call
from gateway.core.text_kinds import TextKind, TextSize

_LETTERS = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1))
_DIGITS = b"0123456789"
_GAPS = b" \\"  # JSON writes newlines and tabs with a backslash
# The first bytes of characters of two, three and four bytes in UTF-8.
_TWO, _THREE, _FOUR = bytes(range(0xC2, 0xE0)), bytes(range(0xE0, 0xF0)), bytes(range(0xF0, 0xF5))
_FOLLOWING = bytes(range(0x80, 0xC0))
# Letters beyond this many for each gap or mark are no words: base64, hashes, names without end.
_LETTERS_PER_GAP = 9
# Judged by itself: the gaps of prose must not hide that what stands beside it has none.
_STRETCH_BYTES = 4096


# Tokens for each byte, or character beyond ASCII. Fitted to o200k_base over 19 kinds of text and their
# mixtures: within a quarter of the truth for most, and within 1.8 times of it for all.
_TOKENS: Mapping[TextKind, float] = {
    TextKind.PROSE: 0.21,
    TextKind.DENSE: 0.88,
    TextKind.DIGITS: 0.47,
    TextKind.MARKS: 0.89,
    TextKind.TWO_BYTES: 0.31,
    TextKind.THREE_BYTES: 0.6,
    TextKind.FOUR_BYTES: 1.85,
}

# How much one new observation moves what was learned of a kind.
_SMOOTHING = 0.3
# A factor outside these bounds is an upstream's mistake, not a tokenizer.
LEAST_FACTOR, MOST_FACTOR = 0.25, 4.0
# Below this a prompt is mostly chat template, which says nothing about the tokenizer.
LEARN_FROM_TOKENS = 50
# Looking at each byte costs time, and short prompts are near to no limit. After the first ones, of prompts on
# which nothing depended, one in so many teaches.
LEARN_FROM_BYTES, LEARN_FIRST, LEARN_ONE_IN = 2048, 8, 16
# What was learned counts half as much after each of these: a prompt that was refused for its size teaches
# nothing, so a wrong factor must heal without one.
HALF_LIFE_SECONDS = 600.0


def size_of(call: Call) -> TextSize | None:
    """The size of the text of `call`. It looks at each byte, unless somebody has already.

    None where the text cannot be told from media, or where only its length is known: a request of the past.
    """
    if call.size is not None:
        return call.size
    text = call.rest
    if call.media.bytes or 2 * len(text) < call.text_bytes:
        return None
    totals = dict.fromkeys(TextKind, 0.0)
    for start in range(0, len(text), _STRETCH_BYTES):
        counts = _counts(text[start : start + _STRETCH_BYTES])
        for kind, count in zip(TextKind, counts, strict=True):
            totals[kind] += count * _TOKENS[kind]
    # What is sent in place of the body may be larger; it is of the same kind.
    share = call.text_bytes / len(text)
    return TextSize(sum(totals.values()) * share, max(totals, key=totals.__getitem__))


def _counts(text: bytes) -> tuple[int, ...]:
    """What `text` has of each TextKind: bytes, or characters of several."""
    letters, digits, gaps = _count(text, _LETTERS), _count(text, _DIGITS), _count(text, _GAPS)
    two = three = four = following = 0
    if not text.isascii():
        two, three, four = _count(text, _TWO), _count(text, _THREE), _count(text, _FOUR)
        following = _count(text, _FOLLOWING)
    marks = len(text) - letters - digits - gaps - two - three - four - following
    dense = max(letters - _LETTERS_PER_GAP * (gaps + marks + 1), 0)
    return letters - dense, dense, digits, marks, two, three, four


def _count(text: bytes, of: bytes) -> int:
    return len(text) - len(text.translate(None, of))


class TokenRatios:
    """What usage has shown of one deployment's tokenizer: by kind of text, how far it is from the table."""

    __slots__ = ("_factors", "_turn")

    def __init__(self) -> None:
        self._factors: dict[TextKind, tuple[float, float]] = {}
        self._turn = 0

    def tokens(self, size: TextSize, now: float) -> int:
        """The tokens of a text of `size`, at `now` (monotonic seconds)."""
        return int(size.tokens * self.factor(size.kind, now)) + 1

    def factor(self, kind: TextKind, now: float) -> float:
        """What the table's tokens are multiplied by. Without news it goes back to 1."""
        known = self._factors.get(kind)
        if known is None:
            return 1.0
        factor, learned_at = known
        return float(1.0 + (factor - 1.0) * 0.5 ** (max(now - learned_at, 0.0) / HALF_LIFE_SECONDS))

    def learn(self, call: Call, tokens: int, now: float, *, mattered: bool) -> None:
        """The prompt of `call` was reported as `tokens`. `mattered`: something depended on its size."""
        if tokens < LEARN_FROM_TOKENS:
            return
        self._turn += 1
        if not mattered and self._turn > LEARN_FIRST and self._turn % LEARN_ONE_IN:
            return
        size = size_of(call)
        if size is None:
            return
        new = min(max(tokens / max(size.tokens, 1.0), LEAST_FACTOR), MOST_FACTOR)
        known = self.factor(size.kind, now)
        step = _SMOOTHING if size.kind in self._factors else 1.0
        self._factors[size.kind] = (known + step * (new - known), now)
