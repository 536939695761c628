"""What an upstream's answer says of itself: model, choices, usage, service tier, errors.

An answer is the client's, whatever its `id` or its usage look like. What is not of the expected type counts
as left out: a member that is only watched must never turn an answer that was paid for into a failure.
"""

import msgspec

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.lenient import NoObject, read_leniently
from gateway.core.usage import Usage
from gateway.core.verdicts import is_error
from gateway.core.wire_usage import Counts, WireUsage


class Exact(msgspec.Struct, frozen=True, gc=False):
    """The upstream itself reported this usage.

    Not `is_final`: with the last chunk of a stream that broke off. It may have written more since.
    `wire` is what it reported; None: nothing.
    """

    usage: Usage
    service_tier: str | None = None
    is_final: bool = True
    wire: WireUsage | None = None


class Contradictory(msgspec.Struct, frozen=True, gc=False):
    """The upstream reported counts that cannot all be true: their dearer reading, and they themselves."""

    usage: Usage
    service_tier: str | None
    reported: Counts


class UnderEstimate(msgspec.Struct, frozen=True, gc=False):
    """At least this much was used: the stream broke before the usage arrived. Never a reason to refund.

    `reported`: counts that did arrive and cannot be true, such as zeros beside text. `wire`: what was
    reported before more was seen.
    """

    usage: Usage
    reported: Counts = ()
    wire: WireUsage | None = None


Metered = Exact | Contradictory | UnderEstimate


_NOTHING = msgspec.Raw()
_NO_ERROR = frozenset({b"", b"null"})
# What an upstream may leave in `error` beside an answer without meaning that anything failed.
_EMPTY_ERROR = frozenset({b'""', b"{}", b"[]", b"false", b"0"})
# What a choice says that came to its end, whatever else went wrong.
_WHOLE = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


class Choice(msgspec.Struct, gc=False):
    """One completion, or a piece of it. `index` tells those of one answer apart.

    `finish_reason`: None or empty while it goes on.
    """

    index: int = 0
    finish_reason: str | None = None


class Observed(msgspec.Struct, gc=False):
    """What one answer, or one event of a stream, says of itself."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    service_tier: str | None = None
    x_groq: WireUsage | None = None
    error: msgspec.Raw = _NOTHING  # `Raw | None` would take nothing but null

    @property
    def finish_reason(self) -> str | None:
        return self.choices[0].finish_reason or None if self.choices else None

    @property
    def reported_usage(self) -> WireUsage | None:
        """Its usage, wherever it stands."""
        usage = self.usage
        if usage is None and self.x_groq is not None and isinstance(self.x_groq.get("usage"), dict):
            usage = self.x_groq["usage"]
        return usage

    @property
    def has_error(self) -> bool:
        error = bytes(self.error)
        return error not in _NO_ERROR and not (self.choices and error in _EMPTY_ERROR)

    def is_error(self, body: bytes) -> bool:
        """True when `body`, which this is of, is an error; one beside a whole answer makes no difference."""
        has_error = self.has_error and bytes(self.error) not in _EMPTY_ERROR
        if self.choices:
            return has_error and not any(choice.finish_reason in _WHOLE for choice in self.choices)
        return has_error or (self.usage is None and is_error(body))


_decode = msgspec.json.Decoder(Observed).decode

BROKEN_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, NoObject)


def observe(text: bytes) -> Observed:
    """Raises one of BROKEN_JSON when `text` is no JSON object."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_leniently(text, Observed)[0]


class ErrorInstead(Exception):
    """An answer, of status 200, is an error. `body` is what came."""

    def __init__(self, body: bytes) -> None:
        super().__init__("an error in place of an answer")
        self.body = body


def read_answer(body: bytes) -> Observed:
    """Raises UpstreamFailure when `body` is no JSON answer (BODY) or the engine gave up on it (ABORTED).

    Raises ErrorInstead when it is an error.
    """
    try:
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = read_leniently(body, Observed)[0]
    except RecursionError:
        return Observed()  # nested too deeply to be read here; the client may do better
    except BROKEN_JSON as exc:
        raise UpstreamFailure(FailureKind.BODY, "the answer is not the JSON that was expected") from exc
    if (answer.error is not _NOTHING or not answer.choices) and answer.is_error(body):
        raise ErrorInstead(body)
    for choice in answer.choices or ():
        if choice.finish_reason == "abort":
            raise UpstreamFailure(FailureKind.ABORTED, "the engine aborted the generation")
    return answer
