"""A store in memory with a clock that is told, and short words for what its tests say often."""

from collections.abc import Coroutine
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import pytest

from gateway.core.admission import Hold, Settlement
from gateway.core.errors import BudgetExceeded, LimitExceeded
from gateway.core.tenancy import Principal, Scope
from gateway.core.windows import Per
from gateway.ports import BudgetView
from gateway.quota.memory import MemoryAdmission
from tests.core.builders import ToldClock, ask, principal, scope

T = TypeVar("T")

UTC = ZoneInfo("UTC")
TOKYO = ZoneInfo("Asia/Tokyo")
DAY = 86_400
USD = 10**9
R = 1_100_000  # what `ask` holds: 100 prompt and 1,000 output tokens at a micro-dollar each
NOTHING = Settlement(spent_nano=0, rate_tokens=0)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that may not wait: nothing else may happen between its check and its hold."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


class Stage:
    """A store with a clock, and the scopes of one principal."""

    def __init__(self, *scopes: Scope, zone: ZoneInfo = UTC) -> None:
        self.clock = ToldClock()
        self.store = MemoryAdmission(self.clock)
        self.store.configure(scopes, zone)
        self.payer = principal(*scopes)

    def admit(self, payer: Principal | None = None, **changes: Any) -> Hold:
        return at_once(self.store.admit(ask(payer or self.payer, **changes)))

    def refused(self, payer: Principal | None = None, **changes: Any) -> LimitExceeded | BudgetExceeded:
        before = self.store.budgets()
        with pytest.raises((LimitExceeded, BudgetExceeded)) as caught:
            self.admit(payer, **changes)
        assert self.store.budgets() == before
        return caught.value

    def settle(self, hold: Hold, spent: int, *, unseen: int = 0, tokens: int | None = None) -> None:
        self.store.settle(hold, Settlement(spent_nano=spent, unseen_nano=unseen, rate_tokens=tokens))

    def view(self, kind: str = "feature", per: Per = Per.DAY) -> BudgetView:
        return next(view for view in self.store.budgets() if (view.kind, view.per) == (kind, per))

    def counters(self, kind: str = "feature", per: Per = Per.DAY) -> tuple[int, int, int]:
        view = self.view(kind, per)
        return view.spent_nano, view.held_nano, view.unseen_nano


def budget(nano: int, per: Per = Per.DAY, kind: str = "feature", **limits: Any) -> Scope:
    return scope(kind, "a", budgets={per: nano}, **limits)
