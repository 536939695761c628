"""What refusals cost those who cause them, on both ports.

Rules:
- A request is judged first, and only its refusal is counted. One that nothing refuses never waits here and is
  never turned away, whoever else asks from the same address or with the same key.
- A refusal without a valid key counts for its address, any other for its key, and for the address as well.
- Beyond the allowance a refusal waits for its turn. Where that is far off, or too many wait, it is a 429 at
  once.
- The tables are bounded, and so is what is told of it. No request is held while its refusal waits.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from gateway.core.allowances import Allowances, BoundedEvents
from gateway.core.errors import GatewayError, RefusedBy, TooManyRefusals
from gateway.http.client_address import network_of
from gateway.ports import Clock

_log = structlog.get_logger("tollway.refusals")

# What a client brings about by asking again: guesses of keys and names, and probes of rules and detectors.
COUNTED = frozenset({RefusedBy.KEY, RefusedBy.MODEL, RefusedBy.PRIVACY, RefusedBy.RULE})
LONGEST_DELAY_SECONDS = 5.0
MOST_WAITING = 256


class RefusalAllowances(msgspec.Struct, frozen=True):
    """Refusals a minute that are answered at once: of one address (IPv6: of one /64), and of one key."""

    per_minute_by_address: int
    per_minute_by_key: int


class RefusalLimits:
    """`judged` each refusal, then `wait` before it is answered. `delayed` and `refused` count."""

    def __init__(
        self,
        allowances: RefusalAllowances,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.clock = clock
        self._sleep = sleep
        self._waiting = 0
        self._events = BoundedEvents(of_each=1, of_all=10)
        self.delayed = self.refused = 0
        self._start_counting(allowances)

    def configure(self, allowances: RefusalAllowances) -> None:
        """Count by `allowances` from now on, anew where they are others."""
        if allowances != self._allowances:
            self._start_counting(allowances)

    def _start_counting(self, allowances: RefusalAllowances) -> None:
        self._allowances = allowances
        self._by_address = Allowances(allowances.per_minute_by_address)
        self._by_key = Allowances(allowances.per_minute_by_key)

    def judged(self, error: GatewayError, address: str, key: str = "") -> GatewayError:
        """What the client is told instead of `error`: that, after its `delay_seconds`, or that there were too
        many. `key` is empty where none was valid."""
        if error.refused_by not in COUNTED:
            return error
        now, network = self.clock.monotonic(), network_of(address)
        table, name = (self._by_key, key) if key else (self._by_address, network)
        seconds = table.wait_seconds(name, now)
        if seconds > LONGEST_DELAY_SECONDS or (seconds and self._waiting >= MOST_WAITING):
            self.refused += 1
            self._tell(error, address, key, now)
            return TooManyRefusals(error, key=key, retry_after_seconds=seconds)
        table.take(name, now)
        if key and not self._by_address.wait_seconds(network, now):
            self._by_address.take(network, now)
        if seconds:
            self.delayed += 1
            self._tell(error, address, key, now)
            error.delay_seconds = seconds
        return error

    @property
    def counts(self) -> dict[str, int]:
        """Refusals that were not answered at once, by what came of them."""
        return {"delayed": self.delayed, "refused": self.refused}

    async def wait(self, error: GatewayError) -> None:
        """Return when `error`, as it was `judged`, may be answered."""
        if not error.delay_seconds:
            return
        self._waiting += 1
        try:
            await self._sleep(error.delay_seconds)
        finally:
            self._waiting -= 1

    def _tell(self, error: GatewayError, address: str, key: str, now: float) -> None:
        left_out = self._events.admit(key or network_of(address), now)
        if left_out is not None:
            _log.warning("refusals.limited", client=address, key=key, code=error.code, left_out=left_out)
