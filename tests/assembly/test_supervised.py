"""Background loops: one that fails says so, is counted, and goes on; a closed one has ended."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog.testing

from gateway import supervised
from gateway.supervised import SupervisedTask, TaskRegistry
from tests.core.builders import run

DEFECT = RuntimeError("a defect")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "FIRST_PAUSE_SECONDS", 0.001)


class Loop:
    """Plays `steps`, one for each turn, then waits for ever."""

    def __init__(self, *steps: BaseException | None) -> None:
        self.steps = list(steps)
        self.registry = TaskRegistry()
        self.waits = 0
        self.turns = 0
        self.problems: list[list[str]] = []  # before each turn
        self.played = asyncio.Event()

    def task(self, **options: Any) -> SupervisedTask:
        return SupervisedTask("loop", self.turn, self.registry, wait=self.wait, **options)

    async def wait(self) -> None:
        self.waits += 1
        await asyncio.sleep(0)

    async def turn(self) -> None:
        self.problems.append(self.registry.problems())
        if self.turns == len(self.steps):
            self.played.set()
            await asyncio.Event().wait()
        step = self.steps[self.turns]
        self.turns += 1
        if step is not None:
            raise step


def played(*steps: BaseException | None, **options: Any) -> tuple[Loop, list[Any]]:
    async def play() -> tuple[Loop, list[Any]]:
        loop = Loop(*steps)
        task = loop.task(**options)
        with structlog.testing.capture_logs() as logs:
            task.start()
            async with asyncio.timeout(60):
                await loop.played.wait()
            await task.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return loop, logs

    return run(play())


def with_loop(check: Callable[[Loop], Awaitable[None]], *steps: BaseException | None) -> None:
    async def play() -> None:
        await check(Loop(*steps))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(play())


# --- a loop that works ---


def test_a_turn_follows_each_wait():
    loop, logs = played(None, None)
    assert (loop.turns, loop.waits) == (2, 3)
    assert logs == []
    assert loop.registry.failures == {"loop": 0}


def test_a_turn_that_is_due_at_the_start_waits_for_nothing():
    async def check(loop: Loop) -> None:
        task = loop.task()
        task.start(is_due=True)
        await loop.played.wait()
        assert (loop.turns, loop.waits) == (1, 1)
        await task.close()

    with_loop(check, None)


# --- a loop that fails ---


def test_a_turn_that_raises_is_tried_again_without_the_wait():
    loop, _ = played(DEFECT, DEFECT, None)
    assert (loop.turns, loop.waits) == (3, 2)


def test_a_failure_is_named_until_a_turn_succeeds_and_every_one_is_counted():
    loop, logs = played(DEFECT, ValueError("another"), None, DEFECT, None)
    said = "background task loop fails: {}; the log says why, it is tried again".format
    assert loop.problems == [[], [said("RuntimeError")], [said("ValueError")], [], [said("RuntimeError")], []]
    assert loop.registry.failures == {"loop": 3}
    assert [entry["event"] for entry in logs] == ["task.failed", "task.recovered"] * 2
    assert [entry["log_level"] for entry in logs[:2]] == ["error", "info"]
    assert logs[0]["task"] == "loop"
    assert logs[0]["exc_info"] is DEFECT


def test_the_reason_names_every_subject_and_never_what_was_raised():
    async def check(loop: Loop) -> None:
        tasks = [SupervisedTask("probe", loop.turn, loop.registry, subject=one) for one in ("b:1", "a:1")]
        for task in tasks:
            task.start()
        await asyncio.sleep(0)
        assert loop.registry.problems() == [
            "background task probe fails for a:1, b:1: RuntimeError; the log says why, it is tried again"
        ]
        assert loop.registry.up() == {"probe": False}
        for task in tasks:
            await task.close()

    with_loop(check, DEFECT, DEFECT, DEFECT, DEFECT, DEFECT, DEFECT, DEFECT, DEFECT)


def test_a_wait_that_raises_does_not_end_the_loop():
    async def check(loop: Loop) -> None:
        waits = iter([DEFECT, None, None])

        async def wait() -> None:
            if (step := next(waits)) is not None:
                raise step

        task = SupervisedTask("loop", loop.turn, loop.registry, wait=wait)
        task.start()
        await loop.played.wait()
        assert loop.registry.failures == {"loop": 1}
        await task.close()

    with_loop(check, None)


def test_something_awaited_that_was_cancelled_does_not_end_the_loop():
    loop, _ = played(asyncio.CancelledError(), None)
    assert loop.turns == 2
    assert loop.registry.failures == {"loop": 1}


def test_the_pause_doubles_up_to_its_bound_and_starts_over_after_a_success(
    monkeypatch: pytest.MonkeyPatch,
):
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    monkeypatch.setattr(supervised, "FIRST_PAUSE_SECONDS", 1.0)

    async def play() -> None:
        loop = Loop(*[DEFECT] * 4, None, DEFECT)
        task = SupervisedTask("loop", loop.turn, loop.registry, longest_pause_seconds=5.0)
        task.start()
        await loop.played.wait()
        await task.close()

    run(play())
    assert pauses == [1.0, 2.0, 4.0, 5.0, 1.0]


def test_a_turn_that_never_returns_works_again_once_it_has_run_for_a_while(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervised, "STEADY_SECONDS", 0.01)

    async def check(loop: Loop) -> None:
        task = loop.task()
        task.start()
        await loop.played.wait()
        assert loop.registry.problems() != []
        await asyncio.sleep(0.05)
        assert loop.registry.problems() == []
        await task.close()

    with_loop(check, DEFECT)


# --- closing ---


def test_closing_ends_the_loop_and_may_be_done_twice_or_before_the_start():
    async def check(loop: Loop) -> None:
        task = loop.task()
        await task.close()
        task.start()
        task.start()
        await asyncio.sleep(0)
        await task.close()
        await task.close()

    with_loop(check)


def test_closing_does_not_wait_for_a_pause_and_forgets_the_failure():
    async def check(loop: Loop) -> None:
        task = loop.task()
        task.start()
        while task.error is None:
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await task.close()
        assert loop.registry.problems() == []
        assert loop.registry.failures == {"loop": 1}
        assert loop.registry.up() == {"loop": True}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervised, "FIRST_PAUSE_SECONDS", 1_000.0)
        patch.setattr(supervised, "LONGEST_PAUSE_SECONDS", 1_000.0)
        with_loop(check, DEFECT)


def test_a_turn_that_raises_while_it_is_cancelled_is_logged_and_ends_the_loop():
    async def check(loop: Loop) -> None:
        begun = asyncio.Event()

        async def turn() -> None:
            try:
                begun.set()
                await asyncio.Event().wait()
            finally:
                raise DEFECT

        task = SupervisedTask("loop", turn, loop.registry)
        with structlog.testing.capture_logs() as logs:
            task.start()
            await begun.wait()
            async with asyncio.timeout(60):
                await task.close()
        assert [entry["event"] for entry in logs] == ["task.failed"]

    with_loop(check)


def test_a_turn_that_swallows_its_cancellation_is_the_last_one():
    async def check(loop: Loop) -> None:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            turns += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

        task = SupervisedTask("loop", turn, loop.registry)
        task.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await task.close()
        assert turns == 1

    with_loop(check)


def test_an_event_loop_that_ends_ends_the_loop():
    async def play() -> None:
        Loop().task().start()
        await asyncio.sleep(0)

    run(play())
