"""Keeps a serving gateway's prices those of the ledger, without asking the database for any request."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from gateway.core.pricing import PriceBook
from gateway.finance.ledger_outage import LedgerOutage
from gateway.ledger.price_versions import read_prices
from gateway.supervised import SupervisedTask, TaskRegistry

_log = structlog.get_logger("tollway.prices")


class PriceWatch:
    """Reads all price versions at the start and every `refresh_seconds`, and gives changed ones to `adopt`.

    A version that was entered ahead of time comes into force by the clock, not by a reading.
    """

    def __init__(
        self, url: str, adopt: Callable[[PriceBook], None], tasks: TaskRegistry, *, refresh_seconds: float
    ) -> None:
        self._url = url
        self._adopt = adopt
        self._refresh_seconds = refresh_seconds
        self._known: list[object] = []
        # The prices known so far stay in force meanwhile.
        self._outage = LedgerOutage(
            lambda problem: _log.warning("prices.refresh_failed", problem=problem),
            lambda: _log.info("prices.refresh_recovered"),
        )
        self._wanted = asyncio.Event()
        self._task = SupervisedTask("price-watch", self._refresh_again, tasks, wait=self._until_due)

    async def start(self) -> None:
        """Adopt what is entered now, and go on watching. Raises LedgerUnavailable."""
        await self.refresh()
        self._task.start()

    async def refresh(self) -> None:
        """Adopt what is entered now. Raises LedgerUnavailable."""
        book = await asyncio.to_thread(read_prices, self._url)
        versions: list[object] = list(book)
        if versions != self._known:
            self._known = versions
            self._adopt(book)
            _log.info("prices.adopted", versions=len(versions))

    def refresh_soon(self) -> None:
        """Look now instead of at the next turn, without waiting for it."""
        self._wanted.set()

    async def close(self) -> None:
        await self._task.close()

    async def _until_due(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._refresh_seconds):
                await self._wanted.wait()

    async def _refresh_again(self) -> None:
        self._wanted.clear()
        await self._outage.tolerate(self.refresh)
