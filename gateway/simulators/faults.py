"""How an answer goes wrong. Which request it hits is the state's decision; here it happens."""

from collections.abc import Iterable

from gateway.simulators.exchange import Reply, SimulatedExchange
from gateway.simulators.knobs import ErrorKind, Knobs
from gateway.simulators.refusals import Header, SimulatedRefusal

_GARBAGE = b"\x16\x03\x01\x02\x00 this is not HTTP \xff\xfe\r\n\r\n"

REFUSALS = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.INSUFFICIENT_QUOTA,
        ErrorKind.SERVER_ERROR,
        ErrorKind.UNAVAILABLE,
        ErrorKind.REFUSAL,
    }
)
"""Faults that are an ordinary error answer."""

_PAGES = {ErrorKind.BAD_GATEWAY: (502, "Bad Gateway"), ErrorKind.GATEWAY_TIMEOUT: (504, "Gateway Time-out")}
INSTEAD = frozenset({*_PAGES, ErrorKind.RESET_BEFORE, ErrorKind.GARBAGE, ErrorKind.TIMEOUT})
"""Faults without any answer of the API."""

CLOSED_BY_US = frozenset({ErrorKind.RESET_BEFORE, ErrorKind.RESET_MID, ErrorKind.GARBAGE})
"""Faults that end the connection from this side: its loss is no disconnect by the client."""

MIDWAY = frozenset(
    {ErrorKind.RESET_MID, ErrorKind.STALL_MID, ErrorKind.ERROR_EVENT, ErrorKind.TRUNCATED_JSON}
)
"""Faults that break a stream off after half of its tokens."""


def page(status: int, reason: str) -> bytes:
    """What a load balancer shows."""
    return (
        f"<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n"
        f"<center><h1>{status} {reason}</h1></center>\r\n<hr><center>cloudflare</center>\r\n"
        "</body>\r\n</html>\r\n"
    ).encode()


def refusal(knobs: Knobs) -> SimulatedRefusal:
    """The refusal that the knobs describe."""
    return SimulatedRefusal(knobs.refusal_status, knobs.refusal_message, code=knobs.refusal_code)


async def error_in_place(exchange: SimulatedExchange, error: bytes, *, stream: bool) -> None:
    """Answer 200 with nothing but `error`, the body of an error answer."""
    if not stream:
        await exchange.reply(Reply(body=error))
        return
    await exchange.start(200, b"text/event-stream; charset=utf-8", ())
    await exchange.send(b"data: %b\n\n" % error)
    await exchange.end()


async def instead_of_answer(kind: ErrorKind, exchange: SimulatedExchange) -> int | None:
    """Do what needs no answer at all. Returns the HTTP status sent, or None when nothing like HTTP was."""
    connection = exchange.connection
    match kind:
        case ErrorKind.BAD_GATEWAY | ErrorKind.GATEWAY_TIMEOUT:
            status, reason = _PAGES[kind]
            await exchange.reply(Reply(status=status, content_type=b"text/html", body=page(status, reason)))
            return status
        case ErrorKind.RESET_BEFORE:
            await connection.reset()
        case ErrorKind.GARBAGE:
            await connection.write_and_close(_GARBAGE)
        case _:
            await connection.until_lost()
    return None


async def broken_reply(
    kind: ErrorKind, exchange: SimulatedExchange, body: bytes, headers: Iterable[Header]
) -> None:
    """Half of a whole answer: well-framed, or the full length announced and the rest never sent."""
    half = body[: len(body) // 2]
    if kind is ErrorKind.TRUNCATED_JSON:
        await exchange.reply(Reply(body=half), headers)
        return
    announced = [*headers, (b"content-length", b"%d" % len(body))]
    await exchange.start(200, b"application/json", announced)
    await exchange.send(half)
    await (exchange.connection.reset() if kind is ErrorKind.RESET_MID else exchange.connection.until_lost())


async def broken_stream(kind: ErrorKind, exchange: SimulatedExchange, error: bytes, event: bytes) -> None:
    """End a stream wrongly. `error` is the error event, `event` the one that would have come next."""
    match kind:
        case ErrorKind.RESET_MID:
            await exchange.connection.reset()
        case ErrorKind.STALL_MID:
            await exchange.connection.until_lost()
        case ErrorKind.ERROR_EVENT:
            await exchange.send(error)
            await exchange.end()
        case _:
            await exchange.send(b"%b\n\n" % event[: len(event) // 2])
            await exchange.end()
