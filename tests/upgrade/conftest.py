"""Async tests, bounded; servers that are started once; and both releases."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from tests.ledger.postgres_server import PostgresServer, postgres_server
from tests.quota.valkey_server import ValkeyServer, valkey_server
from tests.upgrade.installer import Installer
from tests.upgrade.releases import Release, current, release_0_1_0
from tests.upgrade.upstreams import Upstreams, simulated
from tests.upgrade.waiting import TEST_SECONDS


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = inspect.signature(pyfuncitem.obj).parameters
    coroutine = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments})
    asyncio.run(asyncio.wait_for(coroutine, TEST_SECONDS))
    return True


@pytest.fixture(scope="session")
def old() -> Release:
    return release_0_1_0()


@pytest.fixture(scope="session")
def new() -> Release:
    return current()


@pytest.fixture(scope="session")
def upstreams(old: Release) -> Iterator[Upstreams]:
    with simulated(old) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="module")
def installer(
    request: pytest.FixtureRequest, upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installer]:
    """Whatever it installed ends with the module."""
    made = Installer(upstreams, tmp_path_factory.mktemp, request.getfixturevalue)
    yield made
    made.end()
