"""Coroutine tests run on uvloop, in one loop and with one server for each module (its `LIMITS`, if any)."""

import asyncio
import gc
import inspect
from collections.abc import Iterator

import pytest
import uvloop

from gateway.http.server.limits import ServerLimits
from tests.http.server.server_stage import Stage


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def stage(runner: asyncio.Runner, request: pytest.FixtureRequest) -> Iterator[Stage]:
    async def make() -> Stage:
        stage = Stage(getattr(request.module, "LIMITS", ServerLimits()))
        await stage.start()
        return stage

    stage = runner.run(make())
    gc.collect()
    gc.freeze()  # looking for what a test left behind is quick then
    yield stage
    gc.unfreeze()
    runner.run(stage.stop())
    assert stage.complaints == []


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    stage = arguments.get("stage")
    runner: asyncio.Runner = pyfuncitem._request.getfixturevalue("runner")

    async def play() -> None:
        if stage is not None:
            stage.forget()
        await pyfuncitem.obj(**arguments)
        if stage is not None:
            await stage.settled()

    runner.run(play())
    return True
