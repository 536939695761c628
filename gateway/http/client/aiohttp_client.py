"""The second implementation of `Upstream`: aiohttp, for forward proxies and as the fallback setting.

aiohttp parses answers in its lenient mode: folded header lines and bare line feeds, which the lean client
refuses, are read here. Framing is as strict in both: one length, or one plain `chunked`, never both.
Importing this module takes a while; import it only when it is configured.
"""

import asyncio
from weakref import WeakSet

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar
from multidict import CIMultiDict
from yarl import URL

from gateway.core.endpoint import Endpoint
from gateway.core.errors import FailureKind, UpstreamFailure
from gateway.http.client.aiohttp_errors import translated
from gateway.http.client.aiohttp_parts import CURRENT, Exchange, Pieces, WatchedConnector, WatchedRequest
from gateway.http.client.aiohttp_response import AiohttpResponse
from gateway.http.client.parser import HEAD_LIMIT_BYTES
from gateway.http.client.request_head import RequestHead
from gateway.http.client.resolver import Lookup, Resolver, is_literal, system_lookup
from gateway.http.client.response import ABORTED
from gateway.http.client.tls import TlsContexts
from gateway.ports import UpstreamRequest

_READ_BUFFER_BYTES = 256 * 1024
_NO_TIMEOUTS = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)  # ours rule
_AUTOMATIC_HEADERS = ("user-agent", "accept", "accept-encoding", "content-type")


class _Session:
    """aiohttp's session for one endpoint, and the endpoint's connector."""

    def __init__(self, endpoint: Endpoint, resolver: Resolver, contexts: TlsContexts) -> None:
        self.request_head = RequestHead(endpoint)
        ssl_context = contexts.context(endpoint.tls) if endpoint.scheme == "https" else False
        self.connector = WatchedConnector(endpoint, resolver, ssl_context)
        self.http = ClientSession(
            connector=self.connector,
            request_class=WatchedRequest,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,  # BodyDecoder bounds the output
            trust_env=False,
            timeout=_NO_TIMEOUTS,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=HEAD_LIMIT_BYTES,
            max_field_size=HEAD_LIMIT_BYTES,
            max_headers=HEAD_LIMIT_BYTES // 4,  # the handler bounds the sum
            skip_auto_headers=_AUTOMATIC_HEADERS,
        )
        self.http._retry_connection = False  # it would send again on a connection that was not a stale one


class AiohttpUpstream:
    """Implements `Upstream`. Speaks through `endpoint.proxy` (CONNECT for https) where one is set.

    `lookup` replaces the system's resolver. The address behind a proxy cannot be checked, so an endpoint with
    both networks and a proxy is refused as ZONE.
    """

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._resolver = Resolver(lookup)
        self._contexts = TlsContexts()
        self._sessions: dict[Endpoint, _Session] = {}
        self._exchanges: set[Exchange] = set()
        self._responses: WeakSet[AiohttpResponse] = WeakSet()
        self._closed = False

    async def send(self, request: UpstreamRequest) -> AiohttpResponse:
        """See `Upstream.send`. Raises ValueError for a request that could break the framing."""
        endpoint = request.endpoint
        session = self._session(endpoint)
        session.request_head.encode(request)  # its checks are wanted, not its bytes
        if is_literal(endpoint.host) and endpoint.proxy is None:
            await self._resolver.addresses(endpoint)  # aiohttp asks no resolver about a literal address
        total = asyncio.get_running_loop().time() + endpoint.timeouts.total_seconds
        exchange = Exchange(endpoint, total, request.sent_to)
        if request.fresh:
            session.connector.drop_idle()
        try:
            return await self._exchange(session, request, exchange)
        except UpstreamFailure as failure:
            lost_unseen = exchange.reused and not exchange.answered and failure.kind is FailureKind.RESET
            failure.stale = lost_unseen and not self._closed
            raise

    async def close(self) -> None:
        """Close idle connections, abort busy ones, fail those who wait for one."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for exchange in self._exchanges:
            if not exchange.timer.expired():
                exchange.timer.reschedule(now)
        for response in list(self._responses):
            response.abort()
        await self._resolver.close()
        while self._exchanges:  # noqa: ASYNC110
            await asyncio.sleep(0)  # a turn or two: their timers are due
        for session in self._sessions.values():
            await session.http.close()
        self._sessions.clear()

    def counts(self) -> tuple[int, int, int]:
        """Connections busy or being opened, idle ones, and requests that wait for one."""
        counts = [session.connector.counts() for session in self._sessions.values()]
        return sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)

    def _session(self, endpoint: Endpoint) -> _Session:
        if self._closed:
            raise UpstreamFailure(FailureKind.CONNECT, "the client is closed")
        if endpoint.proxy is not None and endpoint.networks is not None:
            detail = f"the address of {endpoint.host} cannot be checked behind a proxy"
            raise UpstreamFailure(FailureKind.ZONE, detail)
        session = self._sessions.get(endpoint)
        if session is None:
            session = self._sessions[endpoint] = _Session(endpoint, self._resolver, self._contexts)
        return session

    async def _exchange(
        self, session: _Session, request: UpstreamRequest, exchange: Exchange
    ) -> AiohttpResponse:
        token = CURRENT.set(exchange)
        self._exchanges.add(exchange)
        try:
            async with exchange.timer:
                exchange.enter(FailureKind.CONNECT_TIMEOUT, exchange.timeouts.connect_seconds)
                response = await self._ask(session, request, exchange)
        except TimeoutError as error:
            exchange.abort()
            raise self._timed_out(exchange) from error
        except Exception as error:
            exchange.abort()
            raise translated(error, connected=exchange.handler is not None) from error
        except BaseException:
            exchange.abort()
            raise
        finally:
            CURRENT.reset(token)
            self._exchanges.discard(exchange)
        self._responses.add(response)
        return response

    async def _ask(self, session: _Session, request: UpstreamRequest, exchange: Exchange) -> AiohttpResponse:
        body = request.body
        answer = await session.http.request(
            request.method.decode(),
            _url(request),
            headers=_headers(request),
            data=Pieces(body, exchange) if Pieces.needed(body) else body or None,
            allow_redirects=False,
            proxy=request.endpoint.proxy,
        )
        exchange.head_arrived = True
        if exchange.handler is not None:
            exchange.handler.head_pending = False
        try:
            return AiohttpResponse(answer, exchange)
        except BaseException:
            exchange.abort()
            answer.close()
            raise

    def _timed_out(self, exchange: Exchange) -> UpstreamFailure:
        if self._closed:
            if exchange.handler is None:
                return UpstreamFailure(FailureKind.CONNECT, "the client is closed")
            return ABORTED.error()
        where = exchange.peer or f"one of {exchange.endpoint.max_connections} connections"
        return UpstreamFailure(exchange.kind, f"waited for {where} of {exchange.endpoint.authority}")


def _url(request: UpstreamRequest) -> URL:
    endpoint = request.endpoint
    return URL(f"{endpoint.scheme}://{endpoint.authority}{request.target.decode('ascii')}", encoded=True)


def _headers(request: UpstreamRequest) -> CIMultiDict[str]:
    """As they go out. Raises ValueError for a value that is not UTF-8, which aiohttp cannot send."""
    headers = CIMultiDict({"accept-encoding": "identity"})
    for name, value in request.headers:
        if name != b"accept-encoding":
            headers.add(name.decode("ascii"), value.decode("utf-8"))
    if request.body or request.method not in (b"GET", b"HEAD", b"DELETE", b"OPTIONS"):
        headers["content-length"] = str(len(request.body))
    return headers
