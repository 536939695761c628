"""CONNECT: a tunnel through a forward proxy, open before anything is said to the upstream.

Rules:
- Every upstream is tunnelled, http ones too: the proxy sees where to, and never a request as its own.
- The head of the proxy's answer is read strictly and has a bound; only a 2xx opens the tunnel.
- Nothing may stand behind that head, because nobody has spoken to the upstream yet. Plain HTTP would take
  such bytes for the answer to a request that is still to come; TLS would fail on them, less clearly.
- What the proxy wrote enters no message but its status, and the credentials enter none at all.
"""

import asyncio
import base64
import re

from gateway.core.endpoint import Endpoint, Proxy, host_and_port
from gateway.core.errors import FailureKind, UpstreamFailure

TUNNEL_HEAD_LIMIT_BYTES = 16 * 1024
_VERSION = b"HTTP/1."
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n\0]*)?\r\n")


async def open_tunnel(transport: asyncio.Transport, endpoint: Endpoint, proxy: Proxy) -> None:
    """Ask the proxy at the other end of `transport` for `endpoint`. Raises UpstreamFailure(CONNECT).

    Returns with reading paused: the caller sets the protocol of what comes next, and then resumes it. The
    caller also bounds the time, and closes the transport when this fails or is cancelled.
    """
    opening = TunnelOpening(asyncio.get_running_loop(), transport)
    if transport.is_closing():
        raise _refused("closed the connection, or sent something, before it was asked")
    transport.set_protocol(opening)
    transport.write(connect_head(endpoint, proxy))
    status = await opening.status
    if not 200 <= status < 300:
        raise _refused(_meaning(status, proxy))
    if opening.lost or transport.is_closing():
        raise _refused("closed the connection after it had opened the tunnel")


class TunnelOpening(asyncio.Protocol):
    """Reads the answer to CONNECT. `status` becomes that of its final head, or fails."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self.status: asyncio.Future[int] = loop.create_future()
        self.lost = False
        self._received = b""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            status = tunnel_status(self._received)
        except UpstreamFailure as failure:
            self._fail(failure)
            return
        if status is not None and not self.status.done():
            self._transport.pause_reading()  # what follows belongs to the upstream's own protocol
            self.status.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._fail(_refused("reset the connection" if exc else "closed the connection"))

    def _fail(self, failure: UpstreamFailure) -> None:
        if not self.status.done():
            self.status.set_exception(failure)


def connect_head(endpoint: Endpoint, proxy: Proxy) -> bytes:
    """The request for a tunnel. `request_head` has checked the host."""
    target = host_and_port(endpoint.host, endpoint.port)
    authority = target.encode("ascii" if target.isascii() else "idna")
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"host: %b" % authority]
    if proxy.credentials is not None:
        lines.append(b"proxy-authorization: Basic " + base64.b64encode(proxy.credentials))
    return b"\r\n".join((*lines, b"", b""))


def tunnel_status(received: bytes) -> int | None:
    """Status of the final answer that `received` begins with; None while its head is incomplete.

    Interim answers (1xx) are passed over. Raises UpstreamFailure(CONNECT) for what is no such answer, for a
    head beyond the bound, and for bytes behind the head that opens the tunnel.
    """
    bound = TUNNEL_HEAD_LIMIT_BYTES
    while True:
        line = _STATUS_LINE.match(received)
        if line is None and (b"\n" in received or not received.startswith(_VERSION[: len(received)])):
            raise _refused("did not answer CONNECT in HTTP/1.1")
        head, end, rest = received.partition(b"\r\n\r\n")
        if len(head) > bound:
            raise _refused(f"answered CONNECT with a head larger than {TUNNEL_HEAD_LIMIT_BYTES} bytes")
        if line is None or not end:
            return None
        status = int(line[1])
        if 200 <= status < 300 and rest:
            raise _refused("sent bytes behind the head that opens the tunnel")
        if status >= 200 or status == 101:
            return status
        bound -= len(head)
        received = rest


def _meaning(status: int, proxy: Proxy) -> str:
    if status != 407:
        return f"answered {status} to CONNECT"
    return f"answered 407: {'it wants' if proxy.credentials is None else 'it refuses our'} credentials"


def _refused(detail: str) -> UpstreamFailure:
    return UpstreamFailure(FailureKind.CONNECT, f"the proxy {detail}")
