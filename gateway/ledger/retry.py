"""Starting while the database is unavailable: try again until it answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable

RETRY_SECONDS = 0.1
RETRY_CEILING_SECONDS = 2.0


async def retry_until_available(
    step: Callable[[], Awaitable[None]], report: Callable[[str | None], None]
) -> None:
    """Repeat `step` until it works. `report` is called with why it did not, and with None once it has.

    Raises LedgerUnusable: no waiting would help.
    """
    pause = RETRY_SECONDS
    while True:
        try:
            await step()
        except LedgerUnusable:
            raise
        except LedgerUnavailable as exc:
            report(str(exc))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads workers, hides nothing
            pause = min(2 * pause, RETRY_CEILING_SECONDS)
        else:
            report(None)
            return
