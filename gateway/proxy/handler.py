"""The data port: routes on the raw path, denies by default, answers as OpenAI does."""

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
import structlog

from gateway.core.envelope import envelope, retry_headers
from gateway.core.errors import ClientDisconnected, GatewayError, MethodNotAllowed, NotFound
from gateway.core.heads import HeaderLines, header_lines
from gateway.core.refused_request import KnownRequest
from gateway.http.server.exchange import Exchange
from gateway.proxy.entrances import COMPLETIONS, MODELS, decoded, entrance_of, is_entrance
from gateway.proxy.model_list import model_object
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.verdict import stopping

_log = structlog.get_logger("tollway.data_plane")


class DataPlane:
    """Answers the exchanges of the data port."""

    def __init__(self, pipeline: Pipeline, new_request_id: Callable[[], str]) -> None:
        self._pipeline = pipeline
        self._new_request_id = new_request_id

    def handle(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Answer one exchange in every case but one: when its client has gone."""
        return self.answer(self._new_request_id(), exchange)

    async def answer(self, request_id: str, exchange: Exchange) -> None:
        """As `handle`, under an id that was made before."""
        try:
            api = COMPLETIONS.get(exchange.path)
            if api is not None and exchange.method == "POST":
                await self._pipeline.complete(api, request_id, exchange, exchange)
            else:
                await self._route(request_id, exchange)
        except GatewayError as error:
            await self._answer_error(error, request_id, exchange)
        except ClientDisconnected:
            return  # it was told of where that was noticed
        except asyncio.CancelledError:
            # Cancelled because the client has gone: the end of this request, not of the server. Everything
            # was booked on the way out.
            if not exchange.disconnected:
                await self._answer_error(stopping(), request_id, exchange)
                raise
        except Exception as exc:
            # The last line of defence: a defect of ours must not kill the worker or show its insides.
            _log.error(
                "request.defect",
                request_id=request_id,
                kind=type(exc).__name__,
                # Lines of code only: the error's own text and its variables could hold the prompt.
                frames=traceback.format_tb(exc.__traceback__),
            )
            await self._refuse(_defect(request_id), request_id, exchange)

    async def _route(self, request_id: str, exchange: Exchange) -> None:
        """Everything but the usual spelling of a completion's address."""
        method = exchange.method
        try:
            entrance = entrance_of(exchange.path)
            api = COMPLETIONS.get(entrance.path) if method == "POST" else None
            if api is None and method == "OPTIONS" and is_entrance(exchange.path):
                await exchange.answer(204, _preflight(exchange), b"")
            elif api is None:
                await self._read(method, entrance.path, request_id, exchange)
        except GatewayError as error:
            await self._refuse(error, request_id, exchange)
            return
        if api is not None:
            await self._pipeline.complete(api, request_id, exchange, exchange, entrance.model)

    async def _refuse(self, error: GatewayError, request_id: str, exchange: Exchange) -> None:
        """Answer with an `error` that the pipeline knows nothing of."""
        answer = self._pipeline.unanswered.refused(error, KnownRequest(request_id), exchange)
        await self._answer_error(answer, request_id, exchange)

    async def _answer_error(self, error: GatewayError, request_id: str, exchange: Exchange) -> None:
        if exchange.started:
            return
        if error.delay_seconds:
            error.__traceback__ = None  # its frames hold the request
            await self._pipeline.unanswered.limits.wait(error)
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", request_id.encode()),
            *retry_headers(error),
            *error.headers,
        ]
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", b"GET, HEAD, POST, OPTIONS"))
        await exchange.answer(error.status, header_lines(headers), envelope(error))

    async def _read(self, method: str, path: str, request_id: str, exchange: Exchange) -> None:
        is_model = path.startswith(MODELS + "/")
        if path != MODELS and not is_model and path not in COMPLETIONS:
            asked = exchange.path[:200]
            raise NotFound(f"Unknown request URL: {method} {asked}. Check the URL and the method.")
        if method not in {"GET", "HEAD"} or path in COMPLETIONS:
            raise MethodNotAllowed(f"Not allowed to {method} on {exchange.path[:200]}.")
        principal = self._pipeline.authenticate(exchange.headers)
        if is_model:
            name = decoded(path[len(MODELS) + 1 :])
            body: Any = model_object(self._pipeline.find_model(principal, name))
        else:
            models = self._pipeline.models(principal)
            body = {"object": "list", "data": [model_object(model) for model in models]}
        headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        await exchange.answer(200, header_lines(headers), orjson.dumps(body))


def _defect(request_id: str) -> GatewayError:
    error = GatewayError(
        f"The gateway failed on this request. Tell its operators the request id {request_id}."
    )
    error.should_retry = True  # it may have been a matter of the moment
    return error


def _preflight(exchange: Exchange) -> HeaderLines:
    asked = exchange.headers.get(b"access-control-request-headers") or b"authorization, content-type"
    return header_lines(
        [
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]
    )
