"""Starting while the database is away: try again until it is there."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from gateway.ledger.errors import LedgerUnavailable, LedgerUnusable

RETRY_SECONDS = 0.1
RETRY_CEILING_SECONDS = 2.0


async def patiently(step: Callable[[], Awaitable[None]], tell: Callable[[str | None], None]) -> None:
    """Repeat `step` until it works. `tell` hears why it did not, and None once it has.

    Raises LedgerUnusable: no waiting would help.
    """
    pause = RETRY_SECONDS
    while True:
        try:
            await step()
        except LedgerUnusable:
            raise
        except LedgerUnavailable as exc:
            tell(str(exc))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads workers, hides nothing
            pause = min(2 * pause, RETRY_CEILING_SECONDS)
        else:
            tell(None)
            return
