"""How sensitive a request is: its floor, what the caller says, what is found, and what nothing can read.

Each of these can only raise the class. Where a feature allows masking, the class is that of what is left when
the values are replaced: the masked body is looked through like any other, so a value that was overlooked
keeps the request at home. `screen` is pure and does not wait; where a text is long, the caller runs it beside
the event loop.
"""

from collections.abc import Iterable, Mapping

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Modality
from gateway.core.causes import (
    Cause,
    Detected,
    EntitiesPossible,
    EntityResult,
    MediaContent,
    TokenIds,
    TooLongToMask,
    Unreadable,
    to_client,
)
from gateway.core.masking import Masked, mask
from gateway.core.media import TEXT_ONLY
from gateway.detect import Detectors
from gateway.detect.text import find_text

_Body = Mapping[str, object]

# A longer text is not masked: what is found in it keeps it at home.
MOST_MASKED_BYTES = 1024 * 1024

_NOTHING: frozenset[str] = frozenset()


class Masking(msgspec.Struct, frozen=True, kw_only=True):
    """Which values are replaced before a request leaves, and where it does not leave.

    `detectors` find the values. `home` has for each class the zones that get a request of that class as it
    is: those of our own that the class may reach.
    """

    detectors: Detectors
    home: Mapping[str, frozenset[str]]


class EntityRule(msgspec.Struct, frozen=True):
    """Named entities raise a request to `raise_to`, and so does not knowing whether there are any."""

    raise_to: str


class Screening(msgspec.Struct, frozen=True, kw_only=True):
    """What the requests of one feature are looked through for.

    `classes` are ordered, least to most sensitive. `raise_to` says for each detector what a find raises the
    request to, `media` what content of a kind counts as, and `token_ids` what those count as that nobody can
    read; kinds that are not named, and other input that hides its text, count as the most sensitive class.
    `detectors` None: nothing is looked for. `masking` None:
    nothing is replaced; its detectors are among `detectors`. `entities` None: there is no second stage.
    """

    classes: tuple[str, ...]
    detectors: Detectors | None = None
    raise_to: Mapping[str, str] = {}
    media: Mapping[Modality, str] = {}
    token_ids: str | None = None
    masking: Masking | None = None
    entities: EntityRule | None = None

    def media_class(self, modality: Modality) -> str:
        return self.media.get(modality, self.classes[-1])

    def without_images(self) -> "Screening":
        """The same, for which images count as the least sensitive class."""
        return msgspec.structs.replace(self, media={**self.media, Modality.IMAGE: self.classes[0]})

    @property
    def token_class(self) -> str:
        return self.token_ids or self.classes[-1]


class Screenings(msgspec.Struct, frozen=True):
    """The screening of each feature that has one of its own, and that of all others."""

    standard: Screening
    by_feature: Mapping[str, Screening] = {}

    def of(self, feature: str) -> Screening:
        return self.by_feature.get(feature, self.standard)


class Raise(msgspec.Struct, frozen=True):
    """What in the request asks for class `to`."""

    by: Cause
    to: str


class StandIn(msgspec.Struct, frozen=True):
    """What is sent in place of a request, except to `zones`, which get it as it is: of class `privacy`."""

    masked: Masked
    zones: frozenset[str]
    privacy: str


class Classified(msgspec.Struct, frozen=True):
    """The class that a request is planned with, and what raised it that far: nothing, when it is its floor.

    With a `stand_in` it is the class of that.
    """

    privacy: str
    raised_by: tuple[Raise, ...] = ()
    stand_in: StandIn | None = None


def screen(call: Call, body: _Body, screening: Screening, floor: str) -> Classified:
    """The class of `call`, whose body is `body`: `floor` at least."""
    masking = screening.masking
    if masking is None and floor == screening.classes[-1]:
        return Classified(floor)
    found, unreadable = _finds(call, body, screening)
    if not found and not unreadable and call.modalities == TEXT_ONLY:
        return Classified(floor)
    raises = [*_media(call, screening), *_raises(screening, found), *unreadable]
    whole = _highest(screening, floor, raises)
    if masking is None or unreadable or found.isdisjoint(masking.detectors.names):
        return whole
    return _masked(call, body, screening, masking, found, floor, whole.privacy)


def needs_entity_stage(classified: Classified, screening: Screening) -> bool:
    """Whether the second stage could change the class."""
    rule, rank = screening.entities, screening.classes.index
    return rule is not None and rank(classified.privacy) < rank(rule.raise_to)


def text_for_entities(body: _Body, classified: Classified) -> str:
    """What the second stage reads: what would leave."""
    leaves = body if classified.stand_in is None else classified.stand_in.masked.body
    return "\n".join(find_text(leaves).pieces)


def sized_for(call: Call, stand_in: StandIn) -> Call:
    """`call` as large as the larger of the two bodies that may be sent for it."""
    growth = max(len(stand_in.masked.rest) - len(call.rest), 0)
    return msgspec.structs.replace(call, text_bytes=call.text_bytes + growth)


def with_entities(classified: Classified, screening: Screening, result: EntityResult) -> Classified:
    """`classified` after the second stage could not rule entities out; `result` says why."""
    rule, rank = screening.entities, screening.classes.index
    if rule is None:
        return classified
    stand_in = classified.stand_in
    if stand_in is not None and screening.masking is not None:
        privacy = max(stand_in.privacy, rule.raise_to, key=rank)
        stand_in = StandIn(stand_in.masked, screening.masking.home[privacy], privacy)
    return Classified(rule.raise_to, (Raise(EntitiesPossible(result), rule.raise_to),), stand_in)


def _masked(
    call: Call,
    body: _Body,
    screening: Screening,
    masking: Masking,
    found: frozenset[str],
    floor: str,
    privacy: str,
) -> Classified:
    """The class of what is left of `call`, which is of class `privacy`, when its values are replaced."""
    classes = screening.classes
    if call.text_bytes > MOST_MASKED_BYTES:
        return Classified(classes[-1], (Raise(TooLongToMask(), classes[-1]),))
    masked = mask(body, call.rest, masking.detectors, found)
    left, _ = _finds(call, masked.body, screening)
    # What could not be replaced must not leave, whatever a find of it raises to.
    overlooked = [
        Raise(Detected(name), classes[-1]) for name in sorted(left.intersection(masking.detectors.names))
    ]
    raises = [*_media(call, screening), *_raises(screening, left), *overlooked]
    classified = _highest(screening, floor, raises)
    stand_in = StandIn(masked, masking.home[privacy], privacy)
    return Classified(classified.privacy, classified.raised_by, stand_in)


def _media(call: Call, screening: Screening) -> list[Raise]:
    return [
        Raise(MediaContent(modality), screening.media_class(modality))
        for modality in sorted(call.modalities)
        if modality is not Modality.TEXT
    ]


def _finds(call: Call, body: _Body, screening: Screening) -> tuple[frozenset[str], tuple[Raise, ...]]:
    """The detectors that find something in `body`, and what follows when it hides its text."""
    detectors = screening.detectors
    if detectors is None and call.modalities == TEXT_ONLY:
        return _NOTHING, ()
    # The options of the stream travel beside the body, and go out as well.
    text = find_text({**body, "stream_options": call.stream_options} if call.stream_options else body)
    if text.unreadable:
        # Embeddings hide their text from every detector, and nobody knows what a stray payload is.
        return _NOTHING, (Raise(Unreadable(), screening.classes[-1]),)
    hidden = (Raise(TokenIds(), screening.token_class),) if text.has_token_ids else ()
    return _NOTHING if detectors is None else detectors.scan(text.pieces), hidden


def _raises(screening: Screening, found: Iterable[str]) -> list[Raise]:
    return [
        Raise(Detected(name), screening.raise_to[name])
        for name in sorted(found)
        if name in screening.raise_to
    ]


def _highest(screening: Screening, floor: str, raises: list[Raise]) -> Classified:
    classes = screening.classes
    if not raises:
        return Classified(floor)
    rank = max(classes.index(item.to) for item in raises)
    if rank <= classes.index(floor):
        return Classified(floor)
    return Classified(classes[rank], tuple(item for item in raises if item.to == classes[rank]))


def raise_reasons(classified: Classified, feature: str) -> str:
    """What raised the class, in words for the client, and what would change it; "" when nothing did."""
    if not classified.raised_by:
        return ""
    reasons = "; ".join(to_client(item.by, item.to, feature) for item in classified.raised_by)
    return f"What raised the class: {reasons}."
