"""Each start registers its close: what was started is closed, in one order, whatever fails meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing

from gateway.app import Gateway
from gateway.assembly.closing import OrderedClosing
from gateway.assembly.lifecycle import ClosingStep
from gateway.ledger.errors import LedgerUnavailable
from tests.assembly.made import made
from tests.e2e.harness import APP_KEY, chat, nothing_left_over, read_rows, simulators, until, unused_url

DEFECT = RuntimeError("a defect")
# In the order in which they start. The data port of a worker that joins others starts last.
STARTS = (
    ClosingStep.LEDGER_WRITER,
    ClosingStep.UPSTREAM,
    ClosingStep.IMAGES,
    ClosingStep.LARGE_BODIES,
    ClosingStep.MEMORY_RELEASE,
    ClosingStep.TRACING,
    ClosingStep.ENTITIES,
    ClosingStep.ADMIN_PORT,
    ClosingStep.DISKS,
    ClosingStep.PROBER,
    ClosingStep.PROGRESS,
    ClosingStep.SHEDDER,
    ClosingStep.DATA_PORT,
    ClosingStep.LEDGER,
    ClosingStep.PRICE_WATCH,
    ClosingStep.ADMISSION,
    ClosingStep.POOL_ACCRUAL,
    ClosingStep.ALERTS,
    ClosingStep.ARCHIVE,
    ClosingStep.REFUSED_RETENTION,
    ClosingStep.RELOADER,
)
EVERY_PART = pytest.mark.parametrize("part", ClosingStep, ids=lambda part: part.value)


class Watched:
    """A gateway whose closes are noted, and may fail."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.closed: list[ClosingStep] = []
        for part, (owner, start, close) in self.parts().items():
            self._watch(part, owner, close)
            assert start is None or hasattr(owner, start)

    def parts(self) -> dict[ClosingStep, tuple[Any, str | None, str]]:
        """What starts: its object, and the names of its start and its close."""
        gateway, parts = self.gateway, self.gateway.parts
        return {
            ClosingStep.LEDGER_WRITER: (parts.ledger_writer, "start", "close"),
            ClosingStep.UPSTREAM: (parts.upstream, None, "close"),
            ClosingStep.IMAGES: (parts.images, None, "close"),
            ClosingStep.LARGE_BODIES: (parts.large_bodies, "start", "close"),
            ClosingStep.MEMORY_RELEASE: (parts.memory_release, "start", "close"),
            ClosingStep.TRACING: (parts.tracing, "start", "close"),
            ClosingStep.ENTITIES: (parts.entities, "configure", "close"),
            ClosingStep.ADMIN_PORT: (gateway._admin, "start", "stop"),
            ClosingStep.DISKS: (parts.disks, "start", "close"),
            ClosingStep.PROBER: (parts.prober, "watch", "close"),
            ClosingStep.PROGRESS: (parts.progress, "start", "close"),
            ClosingStep.SHEDDER: (parts.shedder, "start", "close"),
            ClosingStep.DATA_PORT: (gateway._data, "start", "stop"),
            ClosingStep.LEDGER: (parts.ledger, "start", "close"),
            ClosingStep.PRICE_WATCH: (parts.price_watch, "start", "close"),
            ClosingStep.ADMISSION: (parts.admission, "start", "close"),
            ClosingStep.POOL_ACCRUAL: (parts.pool_accrual, "start", "close"),
            ClosingStep.ALERTS: (parts.alerts, "start", "close"),
            ClosingStep.ARCHIVE: (parts.archive, "start", "close"),
            ClosingStep.REFUSED_RETENTION: (parts.refused_retention, "start", "close"),
            ClosingStep.RELOADER: (gateway.reloader, "start", "close"),
        }

    def replace_start(self, part: ClosingStep, start: Callable[..., Any]) -> None:
        owner, name, _ = self.parts()[part]
        assert name is not None
        setattr(owner, name, start)

    def fail_at_close(self, part: ClosingStep, error: BaseException) -> None:
        owner, _, name = self.parts()[part]
        close = getattr(owner, name)

        async def failing() -> None:
            await close()
            raise error

        setattr(owner, name, failing)

    def _watch(self, part: ClosingStep, owner: Any, name: str) -> None:
        close: Callable[[], Awaitable[None]] = getattr(owner, name)

        async def noted() -> None:
            self.closed.append(part)
            await close()

        setattr(owner, name, noted)

    async def ask(self) -> int:
        async with httpx.AsyncClient() as client:
            url = f"{self.gateway.data_url}/v1/chat/completions"
            headers = {"authorization": f"Bearer {APP_KEY}"}
            return (await client.post(url, json=chat(), headers=headers)).status_code


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    before = asyncio.all_tasks()
    async with simulators() as (external, replicas):
        at_rest = asyncio.all_tasks()
        traces = {"endpoint": f"{unused_url()}/v1/traces"}  # nobody is there: nothing waits for it
        yield Watched(made(folder, external, replicas, {"telemetry": {"traces": traces}}))
        assert asyncio.all_tasks() == at_rest
    assert asyncio.all_tasks() == before


# --- stopping ---


async def test_the_data_port_closes_first_and_the_ledger_last_but_for_the_admin_port(tmp_path: Path) -> None:
    async with nothing_left_over(), watched(tmp_path) as subject:
        await subject.gateway.start()
        await subject.gateway.stop()
        assert subject.closed == list(ClosingStep)
        assert subject.closed.index(ClosingStep.DATA_PORT) < subject.closed.index(ClosingStep.ENTITIES)
        assert subject.closed[-3:] == [
            ClosingStep.LEDGER,
            ClosingStep.LEDGER_WRITER,
            ClosingStep.ADMIN_PORT,
        ]


@EVERY_PART
async def test_a_close_that_fails_skips_no_other_and_never_the_ledgers_flush(
    tmp_path: Path, part: ClosingStep
) -> None:
    async with watched(tmp_path) as subject:
        subject.fail_at_close(part, DEFECT)
        await subject.gateway.start()
        subject.gateway.parts.ledger.pause_commits()  # so that only the flush brings the row in
        assert await subject.ask() == 200
        assert read_rows(tmp_path / "ledger.db") == []
        with structlog.testing.capture_logs() as logs, pytest.raises(RuntimeError, match="a defect"):
            await subject.gateway.stop()
        assert subject.closed == list(ClosingStep)
        assert len(read_rows(tmp_path / "ledger.db")) == 1
        assert [(entry["event"], entry["part"]) for entry in logs if entry["log_level"] == "error"] == [
            ("gateway.close_failed", part.value)
        ]


async def test_all_closes_may_fail(tmp_path: Path) -> None:
    async with watched(tmp_path) as subject:
        for part in ClosingStep:
            subject.fail_at_close(part, DEFECT)
        await subject.gateway.start()
        with structlog.testing.capture_logs() as logs, pytest.raises(RuntimeError, match="a defect"):
            await subject.gateway.stop()
        assert subject.closed == list(ClosingStep)
        failed = [entry["part"] for entry in logs if entry["event"] == "gateway.close_failed"]
        assert failed == [part.value for part in ClosingStep]


async def test_a_stop_that_is_cancelled_still_closes_the_ledger(tmp_path: Path) -> None:
    async with watched(tmp_path) as subject:
        subject.fail_at_close(ClosingStep.DATA_PORT, asyncio.CancelledError())
        await subject.gateway.start()
        subject.gateway.parts.ledger.pause_commits()
        assert await subject.ask() == 200
        with pytest.raises(asyncio.CancelledError):
            await subject.gateway.stop()
        assert subject.closed == list(ClosingStep)
        assert len(read_rows(tmp_path / "ledger.db")) == 1


async def test_a_second_stop_closes_nothing_twice(tmp_path: Path) -> None:
    async with nothing_left_over(), watched(tmp_path) as subject:
        await subject.gateway.start()
        await subject.gateway.stop()
        await subject.gateway.stop()
        assert subject.closed == list(ClosingStep)


# --- starting ---


def begun_until(part: ClosingStep) -> list[ClosingStep]:
    """What has begun to start when `part` does, in the order in which it closes."""
    return [one for one in ClosingStep if one in STARTS[: STARTS.index(part) + 1]]


FROM_ADMIN_PORT = STARTS[STARTS.index(ClosingStep.ADMIN_PORT) :]


@pytest.mark.parametrize("part", FROM_ADMIN_PORT, ids=lambda part: part.value)
async def test_a_start_that_fails_closes_exactly_what_has_begun(tmp_path: Path, part: ClosingStep) -> None:
    def fail(*_: object) -> None:
        raise DEFECT

    async with nothing_left_over(), watched(tmp_path) as subject:
        subject.replace_start(part, fail)
        with pytest.raises(RuntimeError, match="a defect"):
            await subject.gateway.start()
        assert subject.closed == begun_until(part)


# Watches start without awaiting: there is nothing to cancel.
AWAITED = [
    part
    for part in STARTS[STARTS.index(ClosingStep.ADMIN_PORT) : STARTS.index(ClosingStep.POOL_ACCRUAL)]
    if part not in {ClosingStep.DISKS, ClosingStep.PROGRESS, ClosingStep.SHEDDER}
]


@pytest.mark.parametrize("part", AWAITED, ids=lambda part: part.value)
async def test_a_start_that_is_cancelled_closes_exactly_what_has_begun(
    tmp_path: Path, part: ClosingStep
) -> None:
    begun = asyncio.Event()

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with nothing_left_over(), watched(tmp_path) as subject:
        subject.replace_start(part, hang)
        stop = asyncio.Event()
        starting = asyncio.create_task(subject.gateway.start_unless(stop))
        await begun.wait()
        stop.set()
        assert await starting is False
        assert subject.closed == begun_until(part)


async def test_whoever_waits_for_a_start_can_be_cancelled_and_leaves_nothing_behind(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def unavailable() -> None:
        begun.set()
        raise LedgerUnavailable("ledger: nobody there")

    async with nothing_left_over(), watched(tmp_path) as subject:
        subject.replace_start(ClosingStep.LEDGER, unavailable)
        starting = asyncio.create_task(subject.gateway.start_unless(asyncio.Event()))
        await begun.wait()
        await until(lambda: subject.gateway.unready_reasons() == ["ledger: nobody there"])
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert subject.closed == begun_until(ClosingStep.LEDGER)


async def test_a_failing_close_does_not_hide_why_the_start_failed(tmp_path: Path) -> None:
    async def fail() -> None:
        raise LedgerUnavailable("why it failed")

    async with watched(tmp_path) as subject:
        subject.replace_start(ClosingStep.ADMIN_PORT, fail)
        subject.fail_at_close(ClosingStep.ENTITIES, DEFECT)
        with (
            structlog.testing.capture_logs() as logs,
            pytest.raises(LedgerUnavailable, match="why"),
        ):
            await subject.gateway.start()
        assert [entry["part"] for entry in logs if entry["log_level"] == "error"] == ["entities"]
        assert subject.closed == begun_until(ClosingStep.ADMIN_PORT)


async def test_who_joins_others_takes_requests_last(tmp_path: Path) -> None:
    async def fail() -> None:
        raise DEFECT

    async with nothing_left_over(), watched(tmp_path) as subject:
        subject.replace_start(ClosingStep.DATA_PORT, fail)
        with pytest.raises(RuntimeError, match="a defect"):
            await subject.gateway.start(joins=True)
        assert subject.closed == list(ClosingStep)


# --- the order of closing, by itself ---


async def test_what_did_not_start_is_not_closed() -> None:
    closed: list[ClosingStep] = []

    async def close() -> None:
        closed.append(ClosingStep.LEDGER)

    closing = OrderedClosing(ClosingStep)
    await closing.close()
    closing.register(ClosingStep.LEDGER, close)
    await closing.close()
    assert closed == [ClosingStep.LEDGER]
