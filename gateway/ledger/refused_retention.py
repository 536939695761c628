"""Deletes records of refused requests: the old ones, and the oldest where there are too many."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.tables import DAY
from gateway.ledger.url import database_of
from gateway.supervised import SupervisedTask, TaskRegistry

MOST_RECORDS = 200_000  # some 100 MB
TURN_SECONDS = 60.0

_DELETE_BEFORE = "DELETE FROM refused_request WHERE at < ?"
_DELETE_BEYOND = (
    "DELETE FROM refused_request WHERE at <= "
    "(SELECT at FROM refused_request ORDER BY at DESC LIMIT 1 OFFSET ?)"
)


class RefusedRetention:
    """Keeps the records in the ledger at `url` for `days`. Several gateways may do so at a time."""

    def __init__(self, url: str, days: int, now: Callable[[], float], tasks: TaskRegistry) -> None:
        """`now` gives UTC seconds."""
        self._url = url
        self._days = days
        self._now = now
        self._task = SupervisedTask(
            "refused-retention", self._turn, tasks, wait=lambda: asyncio.sleep(TURN_SECONDS)
        )

    def start(self) -> None:
        self._task.start()

    async def close(self) -> None:
        await self._task.close()

    async def _turn(self) -> None:
        before = int(self._now() * 1_000_000) - self._days * DAY
        with suppress(LedgerUnavailable):  # its writer tells of that; what is due stays due
            await asyncio.to_thread(forget_refused, self._url, before)


def forget_refused(url: str, before: int, most: int = MOST_RECORDS) -> None:
    """Delete the records from before `before` (UTC microseconds), and all but about the latest `most`.

    Raises LedgerUnavailable.
    """
    with (
        database_of(url).maintenance(is_quick=True) as maintenance,
        maintenance.begin(exclusive=False) as ledger,
    ):
        ledger.run(_DELETE_BEFORE, max(before, 0))  # as many days as a file may say: no integer of a database
        ledger.run(_DELETE_BEYOND, most)
