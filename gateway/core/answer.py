"""What an upstream's answer says of itself: model, choices, usage, service tier, errors.

An answer is the client's, whatever its `id` or its usage look like. What is not of the expected type counts
as left out: a member that is only watched must never turn an answer that was paid for into a failure.
"""

from typing import Any

import msgspec

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.usage import Usage
from gateway.core.wire_usage import Counts, WireUsage


class Exact(msgspec.Struct, frozen=True, gc=False):
    """The upstream itself reported this usage."""

    usage: Usage
    service_tier: str | None = None


class Contradictory(msgspec.Struct, frozen=True, gc=False):
    """The upstream reported counts that cannot all be true: their dearer reading, and they themselves."""

    usage: Usage
    service_tier: str | None
    reported: Counts


class UnderEstimate(msgspec.Struct, frozen=True, gc=False):
    """At least this much was used: the stream broke before the usage arrived. Never a reason to refund.

    `reported`: counts that did arrive and cannot be true, such as zeros beside text.
    """

    usage: Usage
    reported: Counts = ()


Metered = Exact | Contradictory | UnderEstimate


_NOTHING = msgspec.Raw()
_NO_ERROR = frozenset({b"", b"null"})


class Choice(msgspec.Struct, gc=False):
    """One completion, or a piece of it. `index` tells those of one answer apart."""

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
        return self.choices[0].finish_reason if self.choices else None

    @property
    def reported_usage(self) -> WireUsage | None:
        """Its usage, wherever it stands."""
        usage = self.usage
        if usage is None and self.x_groq is not None and isinstance(self.x_groq.get("usage"), dict):
            usage = self.x_groq["usage"]
        return usage

    @property
    def has_error(self) -> bool:
        return bytes(self.error) not in _NO_ERROR


_decode = msgspec.json.Decoder(Observed).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_choice = msgspec.json.Decoder(Choice).decode
_decode_text = msgspec.json.Decoder(str | None).decode
_decode_usage = msgspec.json.Decoder(WireUsage | None).decode

BROKEN_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def observe(text: bytes) -> Observed:
    """Raises one of BROKEN_JSON when `text` is no JSON object."""
    try:
        return _decode(text)
    except msgspec.ValidationError:
        return _observe_one_by_one(_decode_members(text))


def _observe_one_by_one(members: dict[str, msgspec.Raw]) -> Observed:
    choices = _or_none(_decode_list, members.get("choices"))
    return Observed(
        model=_or_none(_decode_text, members.get("model")),
        choices=None if choices is None else [_choice(raw) for raw in choices],
        usage=_or_none(_decode_usage, members.get("usage")),
        service_tier=_or_none(_decode_text, members.get("service_tier")),
        x_groq=_or_none(_decode_usage, members.get("x_groq")),
        error=members.get("error", _NOTHING),
    )


def _choice(raw: msgspec.Raw) -> Choice:
    return _or_none(_decode_choice, raw) or Choice()


def _or_none(decode: Any, raw: msgspec.Raw | None) -> Any:
    try:
        return None if raw is None else decode(raw)
    except BROKEN_JSON:
        return None


def read_answer(body: bytes) -> Observed:
    """Raises UpstreamFailure when `body` is no JSON answer (BODY) or the engine gave up on it (ABORTED)."""
    try:
        try:
            answer = _decode(body)
        except msgspec.ValidationError:
            answer = observe(body)
    except BROKEN_JSON as exc:
        raise UpstreamFailure(FailureKind.BODY, "the answer is not the JSON that was expected") from exc
    for choice in answer.choices or ():
        if choice.finish_reason == "abort":
            raise UpstreamFailure(FailureKind.ABORTED, "the engine aborted the generation")
    return answer


class _ErrorBody(msgspec.Struct, gc=False):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None


class _ErrorEnvelope(msgspec.Struct, gc=False):
    error: _ErrorBody | str | None = None


_decode_error = msgspec.json.Decoder(_ErrorEnvelope).decode


class UpstreamErrorBody(msgspec.Struct, frozen=True):
    """An upstream's error in OpenAI's four fields. vLLM's integer codes become strings."""

    message: str
    type: str | None
    param: str | None
    code: str | None


def read_error(status: int, body: bytes) -> UpstreamErrorBody:
    """The error of a 4xx or 5xx answer; a body in any other shape gives a message that names the status."""
    fallback = f"The upstream answered with status {status}."
    try:
        error = _decode_error(body).error
    except BROKEN_JSON:
        return UpstreamErrorBody(fallback, None, None, None)
    if isinstance(error, str):
        return UpstreamErrorBody(error, None, None, None)
    if error is None:
        return UpstreamErrorBody(fallback, None, None, None)
    code = None if error.code is None else str(error.code)
    return UpstreamErrorBody(error.message or fallback, error.type, error.param, code)
