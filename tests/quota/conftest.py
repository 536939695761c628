"""Real servers for the specification of admission: one Valkey for all tests, unless one is named."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.quota.stores import LeasedStores, MemoryStores, RedisStores
from tests.quota.valkey_server import valkey_server


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    if (given := os.environ.get("TOLLWAY_TEST_REDIS_URL")) is not None:
        yield given
        return
    with valkey_server() as server:
        yield server.url


@pytest.fixture(params=["memory", "exact", "leased"])
def stores(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        return MemoryStores()
    url = request.getfixturevalue("redis_url")
    return RedisStores(url) if request.param == "exact" else LeasedStores(url)
