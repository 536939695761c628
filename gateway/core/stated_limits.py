"""Limits that a server stated when it refused: what exceeds them goes elsewhere, while there is an elsewhere.

They are a memory and no configuration: kept for a while, and never a reason to ask nobody.
"""

import re

import msgspec

from gateway.core.call import Call
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.estimate import Estimate

# A server that was restarted with other limits is asked again after so long.
KEPT_SECONDS = 600.0

_IMAGES = re.compile(r"\bat most (\d{1,6}) image", re.IGNORECASE)
_CONTEXT = re.compile(
    r"\bmaximum (?:context|model|prompt|input) length (?:is|of) (\d{1,9})\b|"
    r"\bprompt is too long: \d+ tokens > (\d{1,9})\b",
    re.IGNORECASE,
)


class StatedLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a server takes at most: images, and tokens of prompt and answer. None: it has not said.

    `refusal` is the one that said so, `until` when it is forgotten (monotonic seconds).
    """

    refusal: UpstreamFailure
    until: float
    images: int | None = None
    context_tokens: int | None = None

    def exclude(self, call: Call, estimate: Estimate, now: float) -> bool:
        """True when a server with these limits would refuse `call`."""
        if now > self.until:
            return False
        media = call.media
        if self.images is not None and media.images_low + media.images_high > self.images:
            return True
        # An estimate from bytes: only what is far above the limit is surely above it.
        return self.context_tokens is not None and estimate.prompt > self.context_tokens * 2


def stated_in(failure: UpstreamFailure, now: float) -> StatedLimits | None:
    """The limits that a refusal states; None where it states none."""
    error = failure.error
    if failure.kind is not FailureKind.REFUSED or error is None:
        return None
    images, context = _number(_IMAGES, error.message), _number(_CONTEXT, error.message)
    if images is None and context is None:
        return None
    return StatedLimits(refusal=failure, until=now + KEPT_SECONDS, images=images, context_tokens=context)


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return None if found is None else int(next(filter(None, found.groups())))
