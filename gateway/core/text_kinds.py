"""What a text consists of: the kind that makes most of its tokens, and how many those are."""

import enum

import msgspec


class TextKind(enum.StrEnum):
    """What makes most of a prompt's tokens."""

    PROSE = "prose"
    DENSE = "dense"  # letters without gaps
    DIGITS = "digits"
    MARKS = "marks"  # punctuation: code, JSON, tables
    TWO_BYTES = "two_bytes"  # Greek, Cyrillic, Hebrew, Arabic
    THREE_BYTES = "three_bytes"  # Chinese, Japanese, Korean, Indic scripts
    FOUR_BYTES = "four_bytes"  # emoji


class TextSize(msgspec.Struct, frozen=True, gc=False):
    """The tokens of a prompt's text as its bytes let expect, and what makes most of them."""

    tokens: float
    kind: TextKind
