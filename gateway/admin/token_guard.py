"""Who may use the admin port: the admin token decides, on the raw path, before any routing.

Wrong tokens count as wrong keys do on the data port, and each is logged within a bound.
"""

import hashlib
import hmac

import structlog
from fastapi import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.allowances import BoundedEvents
from gateway.core.envelope import envelope, retry_headers
from gateway.core.errors import GatewayError, InvalidApiKey, PermissionDenied
from gateway.http.addresses import host_port
from gateway.http.client_address import network_of
from gateway.proxy.refusal_limits import RefusalLimits

_log = structlog.get_logger("tollway.admin")

OPEN_PATHS = frozenset({b"/healthz", b"/readyz"})
# Lines a minute about refusals: of one address, and of all.
LINES_OF_EACH = 30
LINES_OF_ALL = 100

_PORT_IS_LOCKED = (
    "The admin port has no token, so only /healthz and /readyz answer. "
    "Set server.admin.token in the configuration and send it as 'Authorization: Bearer <token>'."
)
_WHAT_TO_SEND = "Send the admin token as 'Authorization: Bearer <token>'."


class TokenGuard:
    """Lets a request in by its raw path or its token. Stands before the router."""

    def __init__(self, app: ASGIApp, token: str | None, limits: RefusalLimits) -> None:
        self._app = app
        self._limits = limits
        self._events = BoundedEvents(of_each=LINES_OF_EACH, of_all=LINES_OF_ALL)
        self._digest = _digest(token.encode()) if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (refusal := self._refusal(scope)) is not None:
            await self._refuse(refusal, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> GatewayError | None:
        if _raw_path(scope) in OPEN_PATHS:
            return None
        if self._digest is None:
            return PermissionDenied(_PORT_IS_LOCKED)
        sent = _bearer_token(scope)
        # Digests are compared, so that the time tells neither the token's bytes nor its length.
        if sent is None or not hmac.compare_digest(_digest(sent), self._digest):
            return InvalidApiKey(_WHAT_TO_SEND)
        return None

    async def _refuse(self, refusal: GatewayError, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with `refusal`, late where there were many, and tell of it."""
        host, port = scope.get("client") or ("", 0)
        answer = self._limits.judged(refusal, host)
        left_out = self._events.admit(network_of(host), self._limits.clock.monotonic())
        if left_out is not None:
            peer = host_port(host, port) if host else ""
            _log.warning(
                "admin.refused", peer=peer, status=answer.status, code=answer.code, left_out=left_out
            )
        await self._limits.wait(answer)
        await error_response(answer)(scope, receive, send)


def error_response(error: GatewayError) -> Response:
    """`error` as the envelope that all of Tollway's errors have."""
    headers = {name.decode(): value.decode() for name, value in retry_headers(error)}
    if isinstance(error, InvalidApiKey):
        headers["www-authenticate"] = "Bearer"
    return Response(envelope(error), status_code=error.status, media_type="application/json", headers=headers)


def _raw_path(scope: Scope) -> bytes:
    """The path as it stood on the wire, without the query and not decoded."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]


def _bearer_token(scope: Scope) -> bytes | None:
    """The one bearer token of the request; None when there is none, or more than one Authorization."""
    found: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) != 1:
        return None
    scheme, _, token = found[0].partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
