"""Closing in a fixed order what was started in another one."""

import enum
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack

import structlog

_log = structlog.get_logger("tollway.app")

Close = Callable[[], Awaitable[object]]


class OrderedClosing:
    """The closes of what was started. `close` runs each once, in `order`, and none is skipped.

    Parts may start in any order: a port answers before the ledger is open, and closes before the ledger too.
    """

    def __init__(self, order: Iterable[enum.Enum]) -> None:
        self._order = tuple(order)
        self._closes: dict[enum.Enum, Close] = {}

    def register(self, part: enum.Enum, close: Close) -> None:
        """`part` is about to start. Before, not after: a start can be cancelled half-way."""
        self._closes[part] = close

    async def close(self) -> None:
        """Close what was started. Raises what the last failing close raised; each one is logged.

        A cancellation ends the close that it meets; those after it still run.
        """
        async with AsyncExitStack() as stack:
            for part in reversed(self._order):  # the stack runs backwards
                if (close := self._closes.pop(part, None)) is not None:
                    stack.push_async_callback(_logged, part, close)


async def _logged(part: enum.Enum, close: Close) -> None:
    try:
        await close()
    except Exception:
        _log.exception("gateway.close_failed", part=part.value)
        raise
