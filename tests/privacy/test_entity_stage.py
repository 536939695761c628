"""The second stage: a real process that hangs, dies and talks nonsense. Not knowing counts as found."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog.testing

from gateway.core.causes import EntityResult
from gateway.privacy import stage as stage_module
from gateway.privacy.service import EntityService
from gateway.privacy.settings import RecognizerSettings
from gateway.privacy.stage import EntityStage

PROGRAM = (sys.executable, "-S", str(Path(__file__).with_name("recognizer.py")))
PATIENCE_SECONDS = 60.0  # a hang fails the test; nothing is measured against it


def settings(*more: str, deadline: float = 10.0, queue: int = 64) -> RecognizerSettings:
    return RecognizerSettings(
        find=("PERSON",), command=(*PROGRAM, *more), deadline_seconds=deadline, queue=queue
    )


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    given: RecognizerSettings, counted: list[EntityResult] | None = None
) -> AsyncIterator[EntityStage]:
    before = asyncio.all_tasks()
    seen: list[EntityResult] = [] if counted is None else counted
    stage = EntityStage(given, seen.append)
    with structlog.testing.capture_logs():
        stage.start()
        try:
            await until(lambda: stage.is_ready)
            yield stage
        finally:
            await stage.close()
    assert asyncio.all_tasks() == before


async def back(stage: EntityStage) -> None:
    """Return once another process has taken the place of the one that was just lost."""
    await until(lambda: not stage.is_ready)
    await until(lambda: stage.is_ready)


def pid(stage: EntityStage) -> int:
    assert stage._process is not None
    return stage._process.pid


async def test_it_says_whether_a_text_names_someone() -> None:
    counted: list[EntityResult] = []
    async with running(settings(), counted) as stage:
        assert await stage.find("we met Zelda") is EntityResult.FOUND
        assert await stage.find("we met nobody") is EntityResult.CLEAR
    assert counted == [EntityResult.FOUND, EntityResult.CLEAR]


async def test_many_texts_at_once_get_their_own_answers() -> None:
    async with running(settings()) as stage:
        texts = [f"{'Zoe' if number % 3 else 'nobody'} {number}" for number in range(60)]
        found = await asyncio.gather(*map(stage.find, texts))
    assert found == [EntityResult.FOUND if number % 3 else EntityResult.CLEAR for number in range(60)]


async def test_before_it_is_ready_it_is_unavailable() -> None:
    stage = EntityStage(settings("never-ready"), lambda _: None)
    stage.start()
    assert await stage.find("hello") is EntityResult.UNAVAILABLE
    await stage.close()


async def test_a_program_that_cannot_start_is_unavailable_and_its_reason_is_logged() -> None:
    for given, reason in (
        (settings("broken"), "no model"),
        (RecognizerSettings(find=("PERSON",), command=("/no/such/program",)), "cannot be started"),
    ):
        with structlog.testing.capture_logs() as logs:
            stage = EntityStage(given, lambda _: None)
            stage.start()
            await until(lambda logs=logs: bool(logs))
            assert await stage.find("hello") is EntityResult.UNAVAILABLE
            await stage.close()
        assert reason in logs[0]["reason"]


async def test_an_answer_after_the_deadline_is_late_and_belongs_to_nobody() -> None:
    async with running(settings(deadline=0.05)) as stage:
        assert await stage.find("slow: nobody") is EntityResult.LATE
        await until(lambda: not stage._asked)
        stage.settings = settings()
        assert await stage.find("Zelda") is EntityResult.FOUND
        assert await stage.find("nobody") is EntityResult.CLEAR


async def test_one_that_hangs_is_ended_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "HANGING_SECONDS", 0.2)
    monkeypatch.setattr(stage_module, "HANGING_DEADLINES", 1)
    async with running(settings(deadline=0.05)) as stage:
        first = pid(stage)
        assert await stage.find("hang:") is EntityResult.LATE
        async with asyncio.timeout(PATIENCE_SECONDS):
            while stage._process is not None and stage._process.pid == first:
                assert await stage.find("nobody") in {EntityResult.LATE, EntityResult.UNAVAILABLE}
        await until(lambda: stage.is_ready)
        stage.settings = settings()
        assert await stage.find("nobody") is EntityResult.CLEAR


@pytest.mark.parametrize("text", ["crash:", "garbage:", "huge:", "half:", "other:"])
async def test_whatever_it_does_instead_of_answering_it_is_unavailable_and_then_back(text: str) -> None:
    async with running(settings()) as stage:
        assert await stage.find(text) is EntityResult.UNAVAILABLE
        await until(lambda: stage.is_ready)
        assert await stage.find("nobody") is EntityResult.CLEAR


async def test_all_that_wait_for_a_crashing_one_learn_of_it() -> None:
    async with running(settings()) as stage:
        found = await asyncio.gather(stage.find("crash:"), stage.find("Zelda"), stage.find("nobody"))
        assert found == [EntityResult.UNAVAILABLE] * 3


async def test_a_killed_one_is_replaced() -> None:
    async with running(settings()) as stage:
        assert stage._process is not None
        stage._process.kill()
        await back(stage)
        assert await stage.find("Zelda") is EntityResult.FOUND


async def test_no_more_than_the_queue_holds_wait_at_once() -> None:
    async with running(settings(queue=2)) as stage:
        waiting = [asyncio.create_task(stage.find(text)) for text in ("slow:", "slow:")]
        await asyncio.sleep(0)
        assert await stage.find("nobody") is EntityResult.BUSY
        assert await asyncio.gather(*waiting) == [EntityResult.CLEAR, EntityResult.CLEAR]
        assert await stage.find("nobody") is EntityResult.CLEAR


async def test_a_text_that_is_too_long_is_not_shown() -> None:
    async with running(settings()) as stage:
        assert await stage.find("x" * (stage_module.MOST_TEXT_CHARACTERS + 1)) is EntityResult.TOO_LONG


async def test_a_client_that_leaves_takes_nothing_with_it() -> None:
    async with running(settings()) as stage:
        leaving = asyncio.create_task(stage.find("slow: Zelda"))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await stage.find("nobody") is EntityResult.CLEAR


async def test_it_sees_none_of_the_gateway_s_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "x")
    async with running(settings()) as stage:
        assert await stage.find("env:") is EntityResult.CLEAR


async def test_other_settings_replace_the_process_and_the_same_do_not() -> None:
    with structlog.testing.capture_logs():
        service = EntityService(lambda _: None)
        assert await service.find("nobody") is EntityResult.UNAVAILABLE
        service.configure(settings())
        await until(lambda: service.is_ready)
        stage = service._stage
        service.configure(settings())
        assert service._stage is stage
        service.configure(settings(queue=3))
        assert service._stage is not stage
        await until(lambda: service.is_ready)
        assert await service.find("Zelda") is EntityResult.FOUND
        await service.close()
        assert await service.find("Zelda") is EntityResult.UNAVAILABLE


# The built-in recogniser


async def test_presidio_on_a_blank_pipeline_finds_patterns() -> None:
    pytest.importorskip("presidio_analyzer", reason="pip install tollway[ner]")
    given = RecognizerSettings(find=("IP_ADDRESS",), model="blank", deadline_seconds=10.0)
    async with running(given) as stage:
        assert await stage.find("it came from 10.1.2.3") is EntityResult.FOUND
        assert await stage.find("it came from the harbour") is EntityResult.CLEAR


async def test_without_its_model_the_built_in_recogniser_is_unavailable_and_says_what_to_do() -> None:
    with structlog.testing.capture_logs() as logs:
        stage = EntityStage(RecognizerSettings(find=("PERSON",), model="no_such_model"), lambda _: None)
        stage.start()
        await until(lambda: bool(logs))
        assert await stage.find("hello") is EntityResult.UNAVAILABLE
        await stage.close()
    assert "pip install tollway[ner]" in logs[0]["reason"] or "no_such_model" in logs[0]["reason"]
