"""Alerts when a budget has reached a percentage of its limit: by metric, and by webhook with bounded retries.

Spending decides, not what is only held. A hard budget refuses before all of it is spent, since each request
has to fit whole: so its first refusal counts as the last percentage up to 100.
Of several workers the first to notice alerts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from gateway.core.errors import BudgetExceeded
from gateway.core.pricing import usd_text
from gateway.core.tenancy import Budget, Scope
from gateway.core.windows import ROLLING_SECONDS, Per
from gateway.ports import BudgetView
from gateway.supervised import SupervisedTask, TaskRegistry

if TYPE_CHECKING:
    import httpx

_log = structlog.get_logger("tollway.alerts")

LOOK_SECONDS = 5.0
POST_SECONDS = 5.0
PAUSES_SECONDS = (1.0, 4.0, 15.0, 60.0)
# Beyond this the webhook has been unreachable for so long that the oldest alerts are no news.
MAX_WAITING = 1_000
LIFETIME_SECONDS = 365 * 86_400.0
WHOLE = 100

Alerted = Callable[[str, str, str, int], None]


class BudgetSource(Protocol):
    """What alerts need to know of a store of budgets."""

    def budgets(self) -> list[BudgetView]: ...

    def claim(self, name: str, seconds: float, /) -> Awaitable[bool]: ...


class _Alert(msgspec.Struct, frozen=True):
    webhook: str
    body: dict[str, object]


class BudgetAlerts:
    """`start`, then `close`. `alerted` gets kind, name, window and percentage of each alert.

    `make_client` makes the client of the webhooks, once there is one: its library takes longer to load than
    all of this file's neighbours.
    """

    def __init__(
        self,
        store: BudgetSource,
        scopes: Iterable[Scope],
        org: str,
        alerted: Alerted,
        make_client: Callable[[], "httpx.AsyncClient"],
        tasks: TaskRegistry,
    ) -> None:
        self._store = store
        self._org = org
        self._alerted = alerted
        self._make_client = make_client
        self._client: httpx.AsyncClient | None = None
        self._watched = _watched(scopes)
        self._reached: dict[tuple[str, str, str, int], float] = {}
        # Kind, name and window of budgets that refused since the last look, and when these windows end.
        self._refused: dict[tuple[str, str, str], float | None] = {}
        self._is_refused = asyncio.Event()
        # When (UTC seconds) a refusal of a rolling budget was told last.
        self._refusals_told: dict[tuple[str, str, str, int], float] = {}
        self._waiting: asyncio.Queue[_Alert] = asyncio.Queue(MAX_WAITING)
        self._looking = SupervisedTask("budget-alerts", self.look, tasks, wait=self._until_due)
        self._posting = SupervisedTask("alert-webhooks", self._post_next, tasks)
        self._is_started = False

    def start(self) -> None:
        self._is_started = True
        if self._watched:
            self._looking.start(is_due=True)
            self._posting.start()
        if any(budget.webhook is not None for budget in self._watched.values()):
            self._connected()  # not with the first alert, when requests would wait for it

    def configure(self, scopes: Iterable[Scope]) -> None:
        """Watch the budgets of a new configuration. Percentages that were reached stay reached."""
        self._watched = _watched(scopes)
        if self._is_started:
            self.start()

    async def close(self) -> None:
        await self._looking.close()
        await self._posting.close()
        if self._client is not None:
            await self._client.aclose()

    def _connected(self) -> "httpx.AsyncClient":
        self._client = self._client or self._make_client()
        return self._client

    def refused(self, error: BudgetExceeded) -> None:
        """A budget has refused a request. What is only held comes back by itself, and alerts nobody."""
        if error.only_held:
            return
        kind, _, name = error.scope.partition(":")
        self._refused[kind, name, error.window] = error.resets_at
        self._is_refused.set()

    async def _until_due(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._is_refused.wait()

    async def look(self) -> None:
        """Alert for whatever has reached a percentage, or refused, since the last look."""
        self._is_refused.clear()
        refused, self._refused = self._refused, {}
        for view in self._store.budgets():
            budget = self._watched.get((view.kind, view.name, view.per, view.rolling))
            if budget is None:
                continue
            await self._compare(view, budget)
            which = (view.kind, view.name, budget.window)
            if which in refused and _is_of(refused[which], view):
                await self._alert_refusal(view, budget)

    async def _alert_refusal(self, view: BudgetView, budget: Budget) -> None:
        """Once a window; of a rolling one, once in its length."""
        percent = max((one for one in budget.alert_at if one <= WHOLE), default=None)
        if percent is None:
            return
        key = (view.kind, view.name, budget.window, percent)
        told_at = self._refusals_told.get(key)
        if view.rolling:
            is_told = key in self._reached or (
                told_at is not None and view.window.end - told_at < _seconds(view)
            )
        else:
            is_told = self._reached.get(key) == view.window.start
        if is_told:
            return
        if view.rolling:
            self._refusals_told[key] = view.window.end
        else:
            self._reached[key] = view.window.start
        if await self._claimed(_claim(view, budget, percent), _seconds(view)):
            self._alert(view, budget, percent, refused=True)

    async def _compare(self, view: BudgetView, budget: Budget) -> None:
        used = view.spent_nano + view.unseen_nano
        for percent in budget.alert_at:
            key = (view.kind, view.name, budget.window, percent)
            reached = used * 100 >= view.limit_nano * percent
            # A rolling window has no beginning: it may alert again once it has been below.
            window = 0.0 if view.rolling else view.window.start
            if not reached:
                if view.rolling:
                    self._reached.pop(key, None)
                continue
            if self._reached.get(key) == window:
                continue
            self._reached[key] = window
            if await self._claimed(_claim(view, budget, percent), _seconds(view)):
                self._alert(view, budget, percent, refused=False)

    async def _claimed(self, name: str, seconds: float) -> bool:
        try:
            return await self._store.claim(name, seconds)
        except Exception as exc:  # whatever the store is: an alert too many is better than none
            _log.warning("alerts.not_claimed", error=str(exc))
            return True

    def _alert(self, view: BudgetView, budget: Budget, percent: int, *, refused: bool) -> None:
        self._alerted(view.kind, view.name, budget.window, percent)
        body: dict[str, object] = {
            "event": "budget_alert",
            "org": self._org,
            "scope": view.kind,
            "name": view.name,
            "window": budget.window,
            "window_started_at": view.window.start,
            "percent": percent,
            "soft": budget.soft,
            "limit_usd": usd_text(view.limit_nano),
            "spent_usd": usd_text(view.spent_nano),
            "unseen_usd": usd_text(view.unseen_nano),
            **({"refused": True} if refused else {}),
        }
        _log.warning("budget.reached", **{k: v for k, v in body.items() if k != "event"})
        if budget.webhook is None:
            return
        try:
            self._waiting.put_nowait(_Alert(budget.webhook, body))
        except asyncio.QueueFull:
            _log.error("alerts.dropped", name=view.name, percent=percent)

    async def _post_next(self) -> None:
        await self.post(await self._waiting.get())

    async def post(self, alert: _Alert) -> None:
        """Post one alert, with pauses between the tries. Gives up after the last one."""
        import httpx  # noqa: PLC0415  # loaded with the client

        for pause in (*PAUSES_SECONDS, None):
            try:
                response = await self._connected().post(alert.webhook, json=alert.body, timeout=POST_SECONDS)
                if response.status_code < 400:
                    return
                error = f"status {response.status_code}"
            except httpx.HTTPError as exc:
                error = type(exc).__name__
            if pause is None:
                _log.error("alerts.given_up", error=error, name=alert.body["name"])
                return
            await asyncio.sleep(pause)


def _watched(scopes: Iterable[Scope]) -> dict[tuple[str, str, Per, bool], Budget]:
    return {
        (scope.kind, scope.name, budget.per, budget.rolling): budget
        for scope in scopes
        for budget in scope.budgets
        if budget.alert_at
    }


def _claim(view: BudgetView, budget: Budget, percent: int) -> str:
    window = 0 if view.rolling else int(view.window.start)
    return f"alert:{view.kind}:{view.name}:{budget.window}:{window}:{percent}"


def _is_of(resets_at: float | None, view: BudgetView) -> bool:
    """Whether what was refused until `resets_at` belongs to the window that is open."""
    return view.rolling or resets_at is None or resets_at >= view.window.end


def _seconds(view: BudgetView) -> float:
    if view.per is Per.LIFETIME:
        return LIFETIME_SECONDS
    return ROLLING_SECONDS[view.per] if view.rolling else view.window.end - view.window.start
