"""The data port: `/v1/*` on plain ASGI. Routes on the raw path, denies by default, answers as OpenAI does."""

import asyncio
import contextlib
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import orjson
import structlog

from gateway.core.catalog import Api, Model
from gateway.core.envelope import envelope, retry_headers
from gateway.core.errors import (
    ClientDisconnected,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from gateway.pipeline import Pipeline
from gateway.web.asgi import AsgiInbound, AsgiSink, Message, Receive, Send

_log = structlog.get_logger("tollway.data_plane")

COMPLETIONS = {
    "/v1/chat/completions": Api.CHAT,
    "/v1/completions": Api.COMPLETIONS,
    "/v1/embeddings": Api.EMBEDDINGS,
}
MODELS = "/v1/models"

_CORS = [
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"x-request-id, retry-after, x-tollway-deployment, x-tollway-decision, x-tollway-cost-usd, "
        b"x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
        b"x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens",
    ),
]


class DataPlane:
    """The ASGI application of the data port."""

    def __init__(self, pipeline: Pipeline, new_request_id: Callable[[], str]) -> None:
        self._pipeline = pipeline
        self._new_request_id = new_request_id

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse_other(scope, receive, send)
            return
        inbound = AsgiInbound(scope, receive)
        is_browser = inbound.header(b"origin") is not None
        sink = AsgiSink(_with_cors(send) if is_browser else send)
        request_id = self._new_request_id()
        try:
            await self._route(scope["method"], request_id, inbound, sink)
        except GatewayError as error:
            await self._answer_error(error, request_id, sink)
        except ClientDisconnected:
            _log.debug("request.incomplete", request_id=request_id)
        except Exception as exc:
            # The last line of defence: a defect of ours must not kill the worker or show its insides.
            _log.error(
                "request.defect",
                request_id=request_id,
                kind=type(exc).__name__,
                # Lines of code only: the error's own text and its variables could hold the prompt.
                frames=traceback.format_tb(exc.__traceback__),
            )
            await self._answer_error(_defect(request_id), request_id, sink)

    async def _route(self, method: str, request_id: str, inbound: AsgiInbound, sink: AsgiSink) -> None:
        path = inbound.path
        api = COMPLETIONS.get(path) or COMPLETIONS.get(path.rstrip("/"))
        if api is not None and method == "POST":
            await self._complete(api, request_id, inbound, sink)
            return
        if method == "OPTIONS" and path.startswith("/v1/"):
            await sink.answer(204, _preflight(inbound), b"")
            return
        await self._read(method, path.rstrip("/"), request_id, inbound, sink)

    async def _complete(self, api: Api, request_id: str, inbound: AsgiInbound, sink: AsgiSink) -> None:
        task = asyncio.current_task()
        try:
            await self._pipeline.complete(api, request_id, inbound, sink)
        except asyncio.CancelledError:
            # Cancelled by the watch because the client has gone: that is the end of this request, not of
            # the server. Everything was booked on the way out.
            if not inbound.disconnected or task is None:
                raise
            task.uncancel()
        finally:
            inbound.unwatch()

    async def _read(
        self, method: str, path: str, request_id: str, inbound: AsgiInbound, sink: AsgiSink
    ) -> None:
        is_model = path.startswith(MODELS + "/")
        if path != MODELS and not is_model and path not in COMPLETIONS:
            raise NotFound(f"Unknown request URL: {method} {path[:200]}. Check the URL and the method.")
        if method not in {"GET", "HEAD"} or path in COMPLETIONS:
            raise MethodNotAllowed(f"Not allowed to {method} on {path[:200]}.")
        principal = self._pipeline.authenticate(inbound)
        if is_model:
            name = unquote(path[len(MODELS) + 1 :])
            body: Any = _model_object(self._pipeline.find_model(principal, name))
        else:
            models = self._pipeline.models(principal)
            body = {"object": "list", "data": [_model_object(model) for model in models]}
        headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        await sink.answer(200, headers, b"" if method == "HEAD" else orjson.dumps(body))

    async def _answer_error(self, error: GatewayError, request_id: str, sink: AsgiSink) -> None:
        if sink.started:
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", request_id.encode()),
            *retry_headers(error),
        ]
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", b"GET, HEAD, POST, OPTIONS"))
        if isinstance(error, PayloadTooLarge):
            # The rest of the body is not worth reading only to throw it away.
            headers.append((b"connection", b"close"))
        await sink.answer(error.status, headers, envelope(error))


def _defect(request_id: str) -> GatewayError:
    return GatewayError(
        f"The gateway failed on this request. Tell its operators the request id {request_id}."
    )


def _model_object(model: Model) -> dict[str, Any]:
    """OpenAI's model object. `shutdown_date` where every deployment of the model is going to retire."""
    described: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tollway",
    }
    retirements = [deployment.retires_on for deployment in model.use]
    if all(retirements):
        described["shutdown_date"] = max(day for day in retirements if day).isoformat()
    return described


def _preflight(inbound: AsgiInbound) -> list[tuple[bytes, bytes]]:
    asked = inbound.header(b"access-control-request-headers") or "authorization, content-type"
    return [
        (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
        (b"access-control-allow-headers", asked.encode("latin-1")),
        (b"access-control-max-age", b"600"),
    ]


def _with_cors(send: Send) -> Send:
    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_CORS]
        await send(message)

    return send_with_cors


async def _refuse_other(scope: Message, receive: Receive, send: Send) -> None:
    """Lifespan has nothing to do here; WebSockets are refused before the upgrade."""
    if scope["type"] == "lifespan":
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
    await send({"type": "websocket.close", "code": 1008})
