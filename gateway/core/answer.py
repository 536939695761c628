"""Read the whole answer of a request that did not stream: what was used, and whether it is an answer."""

import msgspec

from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.core.observed import BROKEN_JSON, Observed, observe


def read_answer(body: bytes) -> Observed:
    """Raises UpstreamFailure when `body` is no JSON answer (BODY) or the engine gave up on it (ABORTED)."""
    try:
        answer = observe(body)
    except BROKEN_JSON as exc:
        raise UpstreamFailure(FailureKind.BODY, "the answer is not the JSON that was expected") from exc
    if any(choice.finish_reason == "abort" for choice in answer.choices or ()):
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
