"""A turn of a loop that an unavailable ledger may skip: told once when that begins, and once when it ends."""

from collections.abc import Awaitable, Callable

from gateway.ledger.errors import LedgerUnavailable


class LedgerOutage:
    """`began` is told the problem, `ended` that there is none any more."""

    def __init__(self, began: Callable[[str], object], ended: Callable[[], object]) -> None:
        self._began = began
        self._ended = ended
        self._is_out = False

    async def tolerate(self, turn: Callable[[], Awaitable[None]]) -> None:
        """Run `turn`; that the ledger is unavailable is no failure of its loop."""
        try:
            await turn()
        except LedgerUnavailable as exc:
            if not self._is_out:
                self._is_out = True
                self._began(str(exc))
        else:
            if self._is_out:
                self._is_out = False
                self._ended()
