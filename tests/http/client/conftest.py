"""Tests that are coroutines take a `stage` and run on its loop, between its set-up and its checks."""

import asyncio
import gc
import inspect
from collections.abc import Iterator

import pytest

from tests.http.client.upstream_stage import Stage

_LOOPS = ["asyncio", "uvloop"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a stage runs on each kind of event loop."""
    if "stage" in metafunc.fixturenames:
        metafunc.parametrize("stage", _LOOPS, indirect=True)


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(request.param)


@pytest.fixture(scope="package", autouse=True)
def _modules_out_of_the_collectors_way() -> Iterator[None]:
    """Every test ends with a collection, which takes 50 ms when it has to walk all imported modules."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    stage = pyfuncitem.funcargs["stage"]

    async def play() -> None:
        async with stage.playing():
            await pyfuncitem.obj(**arguments)

    with asyncio.Runner(loop_factory=stage.loop_factory) as runner:
        runner.run(play())
    return True
