"""Budget alerts: at each percentage once a window, by one worker, with retries that end."""

import asyncio
import json

import httpx
import pytest

from gateway.core.errors import BudgetExceeded
from gateway.core.tenancy import Budget, Scope
from gateway.core.windows import Per, Window
from gateway.metrics import alerts
from gateway.metrics.alerts import BudgetAlerts
from gateway.ports import BudgetView
from gateway.supervised import TaskRegistry
from tests.core.builders import NOVEMBER

WEBHOOK = "http://hooks.example/budget"


class Store:
    """One budget of 1,000 nano-USD; what is spent is told."""

    def __init__(self, *, rolling: bool = False) -> None:
        self.rolling = rolling
        self.spent = 0
        self.start = NOVEMBER
        self.claimed: set[str] = set()

    def budgets(self) -> list[BudgetView]:
        return [
            BudgetView(
                kind="feature",
                name="triage",
                per=Per.DAY,
                rolling=self.rolling,
                window=Window(self.start, self.start + 86_400),
                limit_nano=1_000,
                spent_nano=self.spent,
                held_nano=900,
                unseen_nano=0,
            )
        ]

    async def claim(self, name: str, _seconds: float, /) -> bool:
        fresh = name not in self.claimed
        self.claimed.add(name)
        return fresh


class Stage:
    def __init__(self, store: Store, answers: list[int] | None = None) -> None:
        self.store = store
        self.told: list[int] = []
        self.posted: list[dict[str, object]] = []
        self.answers = answers or []
        budget = Budget(1_000, Per.DAY, rolling=store.rolling, alert_at=(50, 80, 100), webhook=WEBHOOK)
        scope = Scope(kind="feature", name="triage", budgets=(budget,))
        transport = httpx.MockTransport(self._answer)
        self.alerts = BudgetAlerts(
            store,
            [scope],
            "acme",
            lambda *what: self.told.append(what[3]),
            lambda: httpx.AsyncClient(transport=transport),
            TaskRegistry(),
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.posted.append(json.loads(request.content))
        return httpx.Response(self.answers.pop(0) if self.answers else 200)


def test_each_percentage_alerts_once_a_window() -> None:
    async def scenario() -> None:
        stage = Stage(Store())
        for spent in (499, 500, 600, 799, 801, 801, 1_000, 1_000):
            stage.store.spent = spent
            await stage.alerts.look()
        assert stage.told == [50, 80, 100]
        stage.store.start += 86_400
        stage.store.spent = 820
        await stage.alerts.look()
        assert stage.told == [50, 80, 100, 50, 80]
        await stage.alerts.close()

    asyncio.run(scenario())


def test_a_rolling_window_alerts_again_after_it_was_below() -> None:
    async def scenario() -> None:
        stage = Stage(Store(rolling=True))
        for spent in (500, 400):
            stage.store.spent = spent
            await stage.alerts.look()
        stage.store.claimed.clear()  # as after its time
        stage.store.spent = 500
        await stage.alerts.look()
        assert stage.told == [50, 50]
        await stage.alerts.close()

    asyncio.run(scenario())


def refusal(store: Store, *, only_held: bool = False, window: str = "day") -> BudgetExceeded:
    ends = store.start + 86_400
    return BudgetExceeded("m", scope="feature:triage", window=window, resets_at=ends, only_held=only_held)


def test_the_first_refusal_of_a_window_alerts_as_the_whole_budget_does() -> None:
    async def scenario() -> None:
        stage = Stage(Store())
        stage.store.spent = 960
        stage.alerts.refused(refusal(stage.store, only_held=True))
        await stage.alerts.look()
        assert stage.told == [50, 80]
        for _ in range(2):
            stage.alerts.refused(refusal(stage.store))
            stage.alerts.refused(refusal(stage.store, window="month"))  # nobody watches that one
            await stage.alerts.look()
        assert stage.told == [50, 80, 100]
        stage.store.spent = 1_000
        await stage.alerts.look()
        assert stage.told == [50, 80, 100]

        late = refusal(stage.store)
        stage.store.start += 86_400
        stage.store.spent = 0
        stage.alerts.refused(late)  # its window has ended
        await stage.alerts.look()
        assert stage.told == [50, 80, 100]
        stage.alerts.refused(refusal(stage.store))
        await stage.alerts.look()
        assert stage.told == [50, 80, 100, 100]
        last = stage.alerts._waiting.qsize()
        bodies = [stage.alerts._waiting.get_nowait().body for _ in range(last)]
        assert [body.get("refused", False) for body in bodies] == [False, False, True, True]
        await stage.alerts.close()

    asyncio.run(scenario())


def test_a_rolling_budget_that_goes_on_refusing_alerts_once_in_its_length() -> None:
    async def scenario() -> None:
        store = Store(rolling=True)
        stage = Stage(store)
        for _ in range(3):
            stage.alerts.refused(refusal(store, window="rolling_day"))
            await stage.alerts.look()
            store.start += 3_600
        assert stage.told == [100]
        store.start += 86_400
        store.claimed.clear()
        stage.alerts.refused(refusal(store, window="rolling_day"))
        await stage.alerts.look()
        assert stage.told == [100, 100]
        await stage.alerts.close()

    asyncio.run(scenario())


def test_of_several_workers_one_tells() -> None:
    async def scenario() -> None:
        store = Store()
        one, two = Stage(store), Stage(store)
        store.spent = 500
        await one.alerts.look()
        await two.alerts.look()
        assert (one.told, two.told) == ([50], [])
        await one.alerts.close()
        await two.alerts.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("answers", "posts"), [([], 1), ([500, 503], 3), ([500] * 9, 5)])
def test_a_webhook_is_tried_again_and_given_up(
    answers: list[int], posts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "PAUSES_SECONDS", (0.0, 0.0, 0.0, 0.0))

    async def scenario() -> None:
        stage = Stage(Store(), list(answers))
        stage.store.spent = 500
        await stage.alerts.look()
        await stage.alerts.post(stage.alerts._waiting.get_nowait())
        assert len(stage.posted) == posts
        assert stage.posted[0] == {
            "event": "budget_alert",
            "org": "acme",
            "scope": "feature",
            "name": "triage",
            "window": "rolling_day" if stage.store.rolling else "day",
            "window_started_at": NOVEMBER,
            "percent": 50,
            "soft": False,
            "limit_usd": "0.000001000",
            "spent_usd": "0.000000500",
            "unseen_usd": "0.000000000",
        }
        await stage.alerts.close()

    asyncio.run(scenario())


def test_budgets_of_a_new_configuration_are_watched_and_what_was_told_stays_told() -> None:
    async def scenario() -> None:
        stage = Stage(Store())
        stage.store.spent = 600
        await stage.alerts.look()
        budget = Budget(1_000, Per.DAY, alert_at=(50, 60))
        stage.alerts.configure([Scope(kind="feature", name="triage", budgets=(budget,))])
        await stage.alerts.look()
        assert stage.told == [50, 60]
        stage.alerts.configure([])
        stage.store.spent = 1_000
        await stage.alerts.look()
        assert stage.told == [50, 60]
        await stage.alerts.close()

    asyncio.run(scenario())
