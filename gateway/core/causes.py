"""What raises a request to its privacy class, and how a ledger row names it.

A row keeps the causes of its class as words, `email,named entities (late)`. Rows are read for years, so these
words never change; `kind_of` also reads those that are not written any more.
"""

import enum
from typing import Final, assert_never

import msgspec

from gateway.core.catalog import Modality

UNREADABLE: Final = "unreadable input"
TOKEN_IDS: Final = "token ids"  # noqa: S105  # no password
ENTITIES: Final = "named entities"
UNMASKED: Final = "mask"


class EntityResult(enum.StrEnum):
    """What the second stage says of a text. All but CLEAR count as found: nothing could be ruled out."""

    CLEAR = "clear"
    FOUND = "found"
    LATE = "late"  # not within the deadline
    UNAVAILABLE = "unavailable"  # the recogniser is not running, or not ready yet
    BUSY = "busy"  # as many texts are with it as may be
    TOO_LONG = "too_long"


class Detected(msgspec.Struct, frozen=True, tag=True):
    """A detector of the first stage found something."""

    detector: str


class MediaContent(msgspec.Struct, frozen=True, tag=True):
    """Content of a kind that no detector reads."""

    modality: Modality


class Unreadable(msgspec.Struct, frozen=True, tag=True):
    """Embeddings, and payloads that are not what their place says: no detector reads them."""


class TokenIds(msgspec.Struct, frozen=True, tag=True):
    """A prompt of token ids that are not all of a tokenizer that is known."""


class TooLongToMask(msgspec.Struct, frozen=True, tag=True):
    """The request would be masked, and has more text than is masked."""


class EntitiesPossible(msgspec.Struct, frozen=True, tag=True):
    """The second stage could not rule named entities out."""

    result: EntityResult


Cause = Detected | MediaContent | Unreadable | TokenIds | TooLongToMask | EntitiesPossible


def written(cause: Cause) -> str:
    """`cause` as rows and reports name it."""
    match cause:
        case Detected(detector):
            return detector
        case MediaContent(modality):
            return modality
        case Unreadable():
            return UNREADABLE
        case TokenIds():
            return TOKEN_IDS
        case TooLongToMask():
            return UNMASKED
        case EntitiesPossible(result):
            return f"{ENTITIES} ({result})"
        case _:
            assert_never(cause)


# Rows of 0.1.0 say `away` for UNAVAILABLE.
_ENTITY_CAUSES: Final = frozenset(f"{ENTITIES} ({result})" for result in (*EntityResult, "away"))


def kind_of(text: str) -> str:
    """What a cause that was `written` is about: ENTITIES whatever the result, else the text itself."""
    return ENTITIES if text in _ENTITY_CAUSES else text


def in_words(cause: Cause) -> str:
    """`cause` as an explanation names it."""
    match cause:
        case Detected():
            return f"detector {written(cause)}"
        case MediaContent():
            return f"{written(cause)} content"
        case TooLongToMask():
            return f"detector {UNMASKED}"
        case Unreadable() | TokenIds() | EntitiesPossible():
            return written(cause)
        case _:
            assert_never(cause)


def to_client(cause: Cause, to: str, feature: str) -> str:
    """Why `cause` raised a request of `feature` to class `to`, and what would change that."""
    match cause:
        case Detected(detector):
            return f"the detector {detector} found something"
        case MediaContent(modality):
            return (
                f"{modality} content counts as '{to}' because no detector reads it (to change that, set "
                f"features.{feature}.media.{modality} or privacy.media.{modality} to a class)"
            )
        case Unreadable():
            return (
                f"embeddings, and content that is not what its part says, count as '{to}' because no "
                "detector reads them (send text as strings, and an image as strict base64 in the image_url "
                "of its part)"
            )
        case TokenIds():
            return (
                f"token ids count as '{to}' because their tokenizer is not known, or has no such ids (send "
                "text, or set `tokenizer` of the model's deployments, or set "
                f"features.{feature}.media.tokens or privacy.media.tokens to a class)"
            )
        case TooLongToMask():
            return "it is too long to be masked"
        case EntitiesPossible():
            return f"{written(cause)}: there are some, or nobody could say in time"
        case _:
            assert_never(cause)
