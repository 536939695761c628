"""Async tests run on uvloop, in one loop for each module, so that a module can share one gateway."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest
import uvloop

from gateway.policy.rollout.reloader import Reloader


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways look at their file a hundred times a second."""
    defaults = dict(Reloader.__init__.__kwdefaults__)
    monkeypatch.setattr(Reloader.__init__, "__kwdefaults__", defaults | {"watch_seconds": 0.01})


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    runner: asyncio.Runner = pyfuncitem._request.getfixturevalue("runner")
    arguments = inspect.signature(pyfuncitem.obj).parameters
    runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments}))
    return True
