"""Books what own GPUs cost while the gateway runs, and measures how well they are used."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from zoneinfo import ZoneInfo

import msgspec
import structlog

from gateway.core.money import TOKENS_PER_PRICE_UNIT
from gateway.core.pool_cost import HOUR, SECOND, PoolSpan, PoolTerms
from gateway.finance.ledger_outage import LedgerOutage
from gateway.finance.pool_booking import Accruing, accrue
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.pool_costs import pool_sums
from gateway.ledger.spans import Span
from gateway.ledger.url import database_of
from gateway.ledger.usage_sums import NO_USAGE, sum_usage
from gateway.ports import Clock
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.pool")

ACCRUE_SECONDS = 60.0
MEASURED_OVER = HOUR


class PoolUse(msgspec.Struct, frozen=True, kw_only=True):
    """The latest hour of a pool. None: no saturation is configured, or no token was served."""

    deployment: str
    utilisation: float | None
    nano_usd_per_million_tokens: int | None


class PoolAccrual:
    """Accrues at the start, every minute, and at the end, by way of a thread.

    `booked` hears what this process has booked, `measured` how the pools stand, both on the event loop.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        booked: Callable[[Sequence[PoolSpan]], None],
        measured: Callable[[Sequence[PoolUse]], None],
        tasks: TaskRegistry,
    ) -> None:
        self._url = url
        self._clock = clock
        self._booked = booked
        self._measured = measured
        self._terms: tuple[PoolTerms, ...] = ()
        self._pools: tuple[Accruing, ...] = ()
        self._zone = ZoneInfo("UTC")
        # What was configured before, until when; booked before anything that came after it.
        self._ended: deque[tuple[tuple[Accruing, ...], ZoneInfo, int]] = deque()
        self._turn = asyncio.Lock()
        self._is_started = False
        self._outage = LedgerOutage(
            lambda problem: _log.warning("pool.not_booked_yet", problem=problem),
            lambda: _log.info("pool.booked_again"),
        )
        self._task = SupervisedTask(
            "pool-accrual", self._book_again, tasks, wait=lambda: asyncio.sleep(ACCRUE_SECONDS)
        )

    def configure(self, terms: Iterable[PoolTerms], zone: ZoneInfo) -> None:
        """From now on these. What a pool costs that is not among them any more ends here."""
        now, is_start = self._now(), not self._is_started
        before = {pool.plan.deployment: pool.since for pool in self._pools}
        if not is_start:
            self._ended.append((self._pools, self._zone, now))
        self._terms, self._zone = tuple(terms), zone
        self._pools = tuple(
            Accruing(
                one.plan,
                before.get(one.plan.deployment, now),
                is_new=not is_start and one.plan.deployment not in before,
            )
            for one in self._terms
        )

    async def start(self) -> None:
        """Book what was missed, and go on booking. Raises LedgerUnavailable."""
        await self.refresh()
        self._is_started = True
        self._task.start()

    async def refresh(self) -> None:
        """Book until now. Raises LedgerUnavailable, and then it is caught up with later."""
        async with self._turn:
            while self._ended:
                await self._book(*self._ended[0])
                self._ended.popleft()
            await self._book(self._pools, self._zone, self._now())
            if self._terms:
                self._measured(await asyncio.to_thread(pool_use, self._url, self._terms, self._now()))

    async def close(self) -> None:
        """Stop, and book until now; what cannot be booked is caught up with at the next start."""
        await self._task.close()
        if not self._is_started:
            return
        self._is_started = False
        try:
            await self.refresh()
        except LedgerUnavailable as exc:
            _log.warning("pool.not_booked", problem=str(exc))

    async def _book(self, pools: tuple[Accruing, ...], zone: ZoneInfo, until: int) -> None:
        if pools:
            # A booking that was begun is also counted: nothing else would ever add it to the metrics.
            booking = asyncio.ensure_future(asyncio.to_thread(accrue, self._url, pools, until, zone))
            booking.add_done_callback(self._count)
            await asyncio.shield(booking)

    def _count(self, booking: "asyncio.Future[list[PoolSpan]]") -> None:
        if not booking.cancelled() and booking.exception() is None:
            self._booked(booking.result())

    async def _book_again(self) -> None:
        await self._outage.tolerate(self.refresh)

    def _now(self) -> int:
        return int(self._clock.now() * SECOND)


def pool_use(url: str, terms: Sequence[PoolTerms], now: int) -> list[PoolUse]:
    """How each pool was used in the hour before `now`. Raises LedgerUnavailable."""
    span = Span(now - MEASURED_OVER, now)
    with database_of(url).reading() as ledger:
        costs, usage = pool_sums(ledger, span), sum_usage(ledger, span)
    found = []
    for one in terms:
        name = one.plan.deployment
        total = NO_USAGE
        for consumer, part in usage.items():
            total = total.plus(part) if consumer.deployment == name else total
        tokens = total.input_tokens + total.output_tokens
        cost = costs.get(name)
        capacity = None if cost is None else one.weights.capacity(cost.capacity_tokens)
        work = one.weights.work(total.input_tokens, total.cached_input_tokens, total.output_tokens)
        found.append(
            PoolUse(
                deployment=name,
                utilisation=float(Fraction(work, capacity)) if capacity else None,
                nano_usd_per_million_tokens=None
                if cost is None or tokens <= 0
                else cost.nano_usd * TOKENS_PER_PRICE_UNIT // tokens,
            )
        )
    return found
