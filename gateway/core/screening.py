"""How sensitive a request is: its floor, what the caller says, what is found, and what nothing can read.

Each of these can only raise the class. `screen` is pure and does not wait; where a text is long, the caller
runs it beside the event loop.
"""

from collections.abc import Iterator, Mapping

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Modality
from gateway.core.detect import Detectors, find_text

UNREADABLE = "token ids"


class Screening(msgspec.Struct, frozen=True, kw_only=True):
    """What the requests of one feature are looked through for.

    `classes` are ordered, least to most sensitive. `raise_to` says for each detector what a find raises the
    request to, `media` what content of a kind counts as; kinds that it does not name, and input that hides
    its text, count as the most sensitive class. `detectors` None: nothing is looked for.
    """

    classes: tuple[str, ...]
    detectors: Detectors | None = None
    raise_to: Mapping[str, str] = {}
    media: Mapping[Modality, str] = {}

    def media_class(self, modality: Modality) -> str:
        return self.media.get(modality, self.classes[-1])


class Screenings(msgspec.Struct, frozen=True):
    """The screening of each feature that has one of its own, and that of all others."""

    standard: Screening
    by_feature: Mapping[str, Screening] = {}

    def of(self, feature: str) -> Screening:
        return self.by_feature.get(feature, self.standard)


class Raise(msgspec.Struct, frozen=True):
    """What in the request asks for class `to`: the name of a detector, a modality, or UNREADABLE."""

    by: str
    to: str


class Classified(msgspec.Struct, frozen=True):
    """The class of one request, and what raised it that far; nothing did when it is that of its floor."""

    privacy: str
    raised_by: tuple[Raise, ...] = ()


def screen(call: Call, screening: Screening, floor: str) -> Classified:
    """The class of `call`, which is `floor` at least."""
    classes = screening.classes
    if floor == classes[-1]:
        return Classified(floor)
    raises = [*_media(call, screening), *_finds(call, screening)]
    if not raises:
        return Classified(floor)
    rank = max(classes.index(item.to) for item in raises)
    if rank <= classes.index(floor):
        return Classified(floor)
    return Classified(classes[rank], tuple(item for item in raises if item.to == classes[rank]))


def _media(call: Call, screening: Screening) -> Iterator[Raise]:
    if len(call.modalities) > 1 or Modality.TEXT not in call.modalities:
        for modality in sorted(call.modalities - {Modality.TEXT}):
            yield Raise(modality, screening.media_class(modality))


def _finds(call: Call, screening: Screening) -> Iterator[Raise]:
    if screening.detectors is None:
        return
    text = find_text(call.body)
    if text.unreadable:
        # Token ids hide the text from every detector, so nothing can be ruled out.
        yield Raise(UNREADABLE, screening.classes[-1])
        return
    for name in screening.detectors.scan(text.pieces):
        yield Raise(name, screening.raise_to[name])


def why(classified: Classified, feature: str) -> str:
    """What raised the class, in words for the client, and what would change it; "" when nothing did."""
    if not classified.raised_by:
        return ""
    said = []
    for item in classified.raised_by:
        if item.by in set(Modality):
            said.append(
                f"{item.by} content counts as '{item.to}' because no detector reads it (to change that, set "
                f"features.{feature}.media.{item.by} or privacy.media.{item.by} to a class)"
            )
        elif item.by == UNREADABLE:
            said.append(f"token ids count as '{item.to}' because no detector reads them")
        else:
            said.append(f"the detector {item.by} found something")
    return f"What raised the class: {'; '.join(said)}."
