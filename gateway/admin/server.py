"""The admin port: health, metrics, and whatever routers the application adds. Denies by default.

/healthz and /readyz answer to anybody; everything else, unknown paths included, wants the admin token. That
is decided on the raw path, before any routing, so no way of spelling a path or a host leads around it.
"""

import re
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence

import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.admin.token_guard import TokenGuard, error_response
from gateway.core.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from gateway.http.flow_control import WriteCoalescer
from gateway.http.server.asgi import AsgiHandler
from gateway.http.server.body_bytes import BodyBytes
from gateway.http.server.listening import Listening
from gateway.http.server.port_state import PortState
from gateway.proxy.refusal_limits import RefusalLimits

_log = structlog.get_logger("tollway.admin")

# In which requests under way may end when the port stops, and how long a connection may lie idle.
DRAIN_SECONDS = 1.0
IDLE_SECONDS = 75.0
MOST_BODIES_BYTES = 16 * 1024 * 1024  # of all requests at a time
MAX_BODY_BYTES = 1024 * 1024
MAX_REASON_LENGTH = 300

# A reason may quote a library's error, and those like to quote the database URL. /readyz is open to anybody.
_USER_INFO = re.compile(r"(?<=://)\S*@")
_ASSIGNED_SECRET = re.compile(
    r"""(?i)((?:password|passwd|pwd|secret|token|api_?key)["']?\s*[=:]\s*)("[^"]*"|'[^']*'|\S+)"""
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def admin_app(
    *,
    token: str | None,
    metrics: Callable[[], Awaitable[bytes]],
    metrics_content_type: str,
    ready: Callable[[], Sequence[str]],
    degraded: Callable[[], Sequence[str]],
    version: str,
    limits: RefusalLimits,
    routers: Sequence[APIRouter] = (),
    has_schema: bool = True,
) -> FastAPI:
    """The ASGI application of the admin port. Without a schema /openapi.json is left to the `routers`.

    `ready` gives the reasons why no traffic should come here yet; none means ready. `degraded` says what
    fails and keeps no traffic away. `limits` are those of wrong tokens. `routers` are further parts of the
    admin API; the token guards them like everything else.
    """
    app = FastAPI(
        title="Tollway admin API",
        version=version,
        openapi_url="/openapi.json" if has_schema else None,
        docs_url=None,  # FastAPI's pages load scripts from other people's servers
        redoc_url=None,
        redirect_slashes=False,  # the redirect would be made of the client's Host header
    )
    _add_health(app, ready, degraded)
    _add_metrics(app, metrics, metrics_content_type)
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.add_middleware(_LastDefence)
    app.add_middleware(TokenGuard, token=token, limits=limits)
    return app


def admin_listening(
    app: FastAPI, listener: socket.socket, state: PortState, coalescer: WriteCoalescer
) -> Listening:
    """The admin port: `app` behind the same connections as those of the data port."""
    return Listening(
        AsgiHandler(app, MAX_BODY_BYTES),
        listener,
        state,
        drain_seconds=DRAIN_SECONDS,
        coalescer=coalescer,
        body_bytes=BodyBytes(MOST_BODIES_BYTES, MOST_BODIES_BYTES),
        idle_seconds=IDLE_SECONDS,
    )


def _add_health(
    app: FastAPI, ready: Callable[[], Sequence[str]], degraded: Callable[[], Sequence[str]]
) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="The process is alive")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Traffic may come; 503 with the reasons when it should not")
    async def readyz() -> JSONResponse:
        reasons = [public_reason(reason) for reason in ready()]
        failing = [public_reason(reason) for reason in degraded()]
        told = {"degraded": failing} if failing else {}
        if reasons:
            return JSONResponse({"status": "not ready", "reasons": reasons, **told}, status_code=503)
        return JSONResponse({"status": "ready", **told})


def _add_metrics(app: FastAPI, metrics: Callable[[], Awaitable[bytes]], content_type: str) -> None:
    @app.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response)
    async def scrape() -> Response:
        return Response(await metrics(), headers={"content-type": content_type})


def public_reason(reason: str) -> str:
    """`reason` without credentials and control characters, and not too long, for readers without a token."""
    cleaned = _CONTROL.sub(" ", reason[: 10 * MAX_REASON_LENGTH])
    cleaned = _USER_INFO.sub("***@", cleaned)
    cleaned = _ASSIGNED_SECRET.sub(r"\1***", cleaned)
    return cleaned[:MAX_REASON_LENGTH]


class _LastDefence:
    """Answers a defect of ours with an envelope; the log gets its insides, the client does not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watching_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watching_send)
        except Exception as exc:
            if scope["type"] != "http":
                raise
            _log.error(
                "admin.defect",
                method=scope["method"],
                kind=type(exc).__name__,
                detail=public_reason(str(exc)),
                # Lines of code only: a traceback with variables would show the token.
                frames=traceback.format_tb(exc.__traceback__),
            )
            if not started:
                defect = GatewayError("The admin API failed on this request; the log says why.")
                await error_response(defect)(scope, receive, send)


async def _on_gateway_error(_: Request, exc: Exception) -> Response:
    if not isinstance(exc, GatewayError):
        raise exc
    return error_response(exc)


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    """What the framework refuses by itself."""
    if not isinstance(exc, HTTPException):
        raise exc
    # Whatever goes wrong while a body is read, the framework calls it a parsing error.
    cause = exc.__cause__
    error = cause if isinstance(cause, GatewayError) else _refused_by_framework(exc, request)
    response = error_response(error)
    response.headers.update(exc.headers or {})
    return response


def _refused_by_framework(exc: HTTPException, request: Request) -> GatewayError:
    path = request.scope["path"][:200]
    if exc.status_code == 404:
        return NotFound(f"There is no {path} on the admin port.")
    if exc.status_code == 405:
        return MethodNotAllowed(f"Not allowed to {request.method} on {path}.")
    error: GatewayError = InvalidRequest(str(exc.detail))
    if exc.status_code >= 500:
        error = GatewayError(str(exc.detail))
    error.status = exc.status_code
    return error


async def _on_invalid_request(_: Request, exc: Exception) -> Response:
    """Names the first wrong field. Never the value: it may be a secret that was to be stored."""
    if not isinstance(exc, RequestValidationError):
        raise exc
    first = exc.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(InvalidRequest("The body is not valid JSON.", code="invalid_json"))
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return error_response(InvalidRequest(f"{where}: {first['msg']}", param=where))
