"""The seams of the gateway. A Protocol stands here only where two implementations are real."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from gateway.core.admission import Ask, Hold, Settlement
from gateway.core.call import Call
from gateway.core.causes import EntityResult
from gateway.core.ended import Ended
from gateway.core.errors import FailureKind, GatewayError
from gateway.core.heads import NO_LINES, BodyInParts, HeaderLines, RequestHead
from gateway.core.screening import StandIn
from gateway.core.sent import Candidate, Sent
from gateway.core.tenancy import Principal
from gateway.core.windows import Per, Window

Headers = Sequence[tuple[bytes, bytes]]


def _to_nobody(_response: "UpstreamResponse") -> None:
    """For requests that nobody watches."""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One HTTP request to the endpoint of `head`. `own` are its own header lines; content-length is added.

    `stream`: its answer comes piece by piece, so it is bounded by the time to its first byte and between two,
    and by no total. Any other answer is bounded by the total alone.
    `fresh` asks for a new connection instead of a pooled one. `goes_out` is handed the answer to come as soon
    as there is a connection for the request, and before anybody has seen a byte of it.
    """

    head: RequestHead
    own: HeaderLines = NO_LINES
    body: bytes | BodyInParts
    stream: bool = False
    fresh: bool = False
    goes_out: "Callable[[UpstreamResponse], None]" = _to_nobody


class UpstreamResponse(Protocol):
    """Head of an answer, with its body still to come.

    Owner's duty: read to the end or call `abort()`. Reading to the end gives the connection back to the
    pool by itself; `abort()` closes it at once and may be called at any time, any number of times.
    """

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers:
        """Names in lower case, as received, in order."""
        ...

    @property
    def peer(self) -> str:
        """The address that the bytes really went to, `ip:port`."""
        ...

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises UpstreamFailure; kind BODY when it is larger than the limit."""
        ...

    async def next_chunk(self) -> bytes:
        """All body bytes that have arrived since the last call, at least one; b"" at the end of the body.

        Raises UpstreamFailure(RESET) when the body ends early. Cancelling the call aborts the connection.
        """
        ...

    def tap(self, take: Callable[[bytes], bool]) -> None:
        """Offer to `take` what arrives while a `next_chunk` waits. It says whether it took all of it.

        What it leaves, and the end of the body, come by `next_chunk`. `take` is called from the loop's own
        callback: it must be quick, and never raise.
        """
        ...

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for it: for its head, or for more of its body."""
        ...

    def break_off(self, kind: FailureKind, detail: str) -> None:
        """Close the connection; who waits for the answer gets this failure, as does who asks for more."""
        ...

    def abort(self) -> None: ...


class Upstream(Protocol):
    """An HTTP/1.1 client. Cancelling a call aborts its connection before the cancellation is re-raised."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send and wait for the final response head (1xx are skipped). Raises UpstreamFailure.

        Nothing is sent twice here: a stale pooled connection is a failure that says so, because the caller
        has to record each time that an upstream may have seen the request.
        """
        ...

    async def close(self) -> None:
        """Close idle connections and abort busy ones."""
        ...


class Ledger(Protocol):
    """Where the two halves of each attempt's row go. All methods are called on the event loop's thread."""

    def has_room(self) -> bool:
        """False while the queue stands at its bound; cheap enough for every request."""
        ...

    async def wait_for_room(self) -> None:
        """Admission waits here, under the caller's own timeout.

        Raises Unavailable, and at once, where only a person can make room: the disk is full.
        """
        ...

    def intend(self, attempt_id: str, half: bytes) -> None:
        """Note an attempt that is about to be sent, with its half of the row (`Sent.half`).

        Should this process die before `append`, that is all that is known of it. When it returns the note
        survives kill -9. Raises Unavailable: then nothing may be sent.
        """
        ...

    def append(self, attempt_id: str, half: bytes) -> None:
        """Note how it ended (`Ended.half`).

        Never blocks and never drops; admitted requests may take the queue past its bound.
        """
        ...

    async def flush(self) -> None:
        """Return once everything appended so far is committed."""
        ...

    async def close(self) -> None:
        """Flush, then stop."""
        ...

    def lag_rows(self) -> int:
        """Rows appended and not yet committed; they are committed in the order in which they came."""
        ...

    def problem(self) -> str | None:
        """Why the store is not taking rows, for `readyz`; None when all is well."""
        ...


class BudgetView(msgspec.Struct, frozen=True, kw_only=True):
    """One budget in its open window; money in nano-USD. A `rolling` window is the time just gone."""

    kind: str
    name: str
    per: Per
    window: Window
    limit_nano: int
    spent_nano: int
    held_nano: int
    unseen_nano: int
    rolling: bool = False


class Admission(Protocol):
    """Limits and budgets. Each call is one atomic step over all scopes of a principal."""

    def peek(self, principal: Principal) -> None:
        """Raise LimitExceeded where a limit is known to refuse whatever `principal` asks now.

        It takes nothing, and waits for nothing: `admit` decides all the same.
        """
        ...

    async def admit(self, ask: Ask) -> Hold:
        """Reserve. Raises LimitExceeded or BudgetExceeded; a refusal reserves nothing."""
        ...

    async def renew(self, hold: Hold, settlement: Settlement) -> Hold:
        """Settle one attempt and hold for the next of the same request. Raises BudgetExceeded."""
        ...

    def settle(self, hold: Hold, settlement: Settlement) -> None:
        """End a request's reservation, exactly once; later calls do nothing. Never awaits, never raises."""
        ...

    def drop(self, principal: Principal) -> None:
        """Forget what is kept for requests of `principal`; those in flight settle as ever."""
        ...

    def used_share(self, principal: Principal) -> float:
        """The fullest budget of `principal` as a share of its limit, holds included."""
        ...

    def budgets(self) -> list[BudgetView]:
        """Every budget that is known, for metrics and reports."""
        ...


class Inbound(Protocol):
    """A request as it arrived, whatever server brought it."""

    @property
    def path(self) -> str:
        """The raw path, not decoded, without the query."""
        ...

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The first value of each header, by its name in lower case."""
        ...

    @property
    def peer(self) -> str:
        """Who is connected, `ip:port`: a proxy where one stands in front. Empty where nobody can tell."""
        ...

    async def body(self, limit_bytes: int, key: str) -> bytes | bytearray:
        """The whole body, decompressed. It is the caller's: nothing here keeps it, or changes it.

        Its bytes count for `key`.

        Raises LimitExceeded and Unavailable when too many are held, PayloadTooLarge (as it came, or
        decompressed), InvalidRequest for one that cannot be decompressed, and ClientDisconnected when it
        never arrives whole.
        """
        ...

    def watch(self) -> None:
        """From now on the current task is cancelled as soon as the client disconnects.

        Raises ClientDisconnected when it already has.
        """
        ...

    @property
    def disconnected(self) -> bool:
        """True once the client has gone."""
        ...


class Sink(Protocol):
    """Where the answer goes. Either one `answer`, or a start, any number of `send`, and `end` or `abort`.

    A trailer, a header that follows the answer, reaches only who knows of chunks.
    """

    @property
    def started(self) -> bool:
        """True once the client may have seen a byte."""
        ...

    async def answer(self, status: int, lines: HeaderLines, body: bytes) -> None:
        """`lines` go out as they are, beside those of the server and of the framing."""
        ...

    async def start(self, status: int, lines: HeaderLines, trailer: bytes = b"") -> None:
        """`trailer` is the name of the line that `end` will bring."""
        ...

    def start_now(self, status: int, lines: HeaderLines, data: bytes, trailer: bytes = b"") -> None:
        """As `start` and `send` in one, for a callback, which cannot wait. `data` is short, or empty."""
        ...

    async def send(self, data: bytes) -> None:
        """Waits while the client reads slower than the answer comes."""
        ...

    def send_now(self, data: bytes) -> bool:
        """As `send`, where nothing has to be waited for; False: nothing was written, so `send` it."""
        ...

    async def end(self, trailers: HeaderLines = NO_LINES) -> None: ...


class Telemetry(Protocol):
    """Counts what happened. Every method is cheap, never awaits and never raises."""

    def refused(self, error: GatewayError, principal: Principal | None, model: str | None) -> None:
        """A request was answered with an error envelope of the gateway's own."""
        ...

    def planned(self, sent: Sent, overhead_seconds: float) -> None:
        """A request was admitted and its first attempt is about to be sent."""
        ...

    def attempted(self, sent: Sent, ended: Ended) -> None:
        """An attempt ended and was recorded."""
        ...

    def answered(self, sent: Sent, ended: Ended, seconds: float) -> None:
        """A request ended with this attempt, `seconds` after it had arrived."""
        ...

    def dialect_learned(self, deployment: str, field: str) -> None:
        """The servers of `deployment` refuse `field`, and the gateway has stopped sending it there."""
        ...


class EntityFinder(Protocol):
    """Looks for named entities, beside the event loop."""

    async def find(self, text: str) -> EntityResult:
        """Answers within its deadline, whatever happens. Never raises."""
        ...


class TokenCounter(Protocol):
    """Counts the tokens of prompts, beside the event loop or at the servers."""

    async def count(
        self, call: Call, stand_in: StandIn | None, candidates: Sequence[Candidate]
    ) -> Mapping[str, int]:
        """Tokens by deployment, for those of `candidates` that could tell in time. Never raises."""
        ...


class Clock(Protocol):
    """Time as an argument. `monotonic` is for durations, `now` (UTC seconds since 1970) for records."""

    def monotonic(self) -> float: ...

    def now(self) -> float: ...
