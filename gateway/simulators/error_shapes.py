"""An error answer as other servers write it, and how it tells when to come back."""

import time
from email.utils import formatdate

import orjson

from gateway.simulators.exchange import JSON_TYPE, Reply
from gateway.simulators.faults import page
from gateway.simulators.knobs import ErrorShape, Knobs, RetryAfter
from gateway.simulators.refusals import Header, SimulatedRefusal
from gateway.simulators.requests import Json


def error_reply(refused: SimulatedRefusal, own: bytes, knobs: Knobs) -> Reply:
    """The answer for `refused`. `own` is its body as this kind of server writes it."""
    content_type, body = _body(refused, own, knobs.error_shape)
    headers = refused.headers if knobs.retry_after is RetryAfter.OWN else _retry_after(knobs)
    return Reply(status=refused.status, content_type=content_type, body=body, headers=headers)


def _body(refused: SimulatedRefusal, own: bytes, shape: ErrorShape) -> tuple[bytes, bytes]:
    match shape:
        case ErrorShape.OWN:
            return JSON_TYPE, own
        case ErrorShape.PLAIN:
            return b"text/plain; charset=utf-8", refused.message.encode()
        case ErrorShape.HTML:
            return b"text/html", page(refused.status, refused.message)
        case _:
            return JSON_TYPE, orjson.dumps(_document(refused, shape))


def _document(refused: SimulatedRefusal, shape: ErrorShape) -> Json:
    message, kind, code = refused.message, refused.kind, refused.code
    four = {"message": message, "type": kind, "param": refused.param, "code": code}
    documents: dict[ErrorShape, Json] = {
        ErrorShape.OBJECT: {"object": "error", **four, "code": refused.status},
        ErrorShape.TEXT_IN_ERROR: {"error": message},
        ErrorShape.DETAIL: {"detail": message},
        ErrorShape.DETAIL_LIST: {
            "detail": [{"type": kind, "loc": ["body", refused.param or "messages"], "msg": message}]
        },
        ErrorShape.MESSAGE: {"message": message},
        ErrorShape.PARAM_LIST: {
            "error": {**four, "param": [refused.param or "messages"], "code": refused.status}
        },
        ErrorShape.AZURE: {"error": {**four, "innererror": {"code": code, "content_filter_result": {}}}},
    }
    return documents[shape]


def _retry_after(knobs: Knobs) -> tuple[Header, ...]:
    milliseconds = knobs.retry_after_ms
    match knobs.retry_after:
        case RetryAfter.MILLISECONDS:
            return ((b"retry-after-ms", b"%d" % milliseconds),)
        case RetryAfter.SECONDS:
            return ((b"retry-after", b"%d" % -(-milliseconds // 1000)),)
        case RetryAfter.DATE:
            moment = formatdate(time.time() + milliseconds / 1000, usegmt=True)
            return ((b"retry-after", moment.encode()),)
        case _:
            return ()
