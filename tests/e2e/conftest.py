"""Async tests share a loop for each module; some want gateways that look at their file often."""

import pytest

from gateway.policy.rollout.reloader import Reloader
from tests.e2e.coroutines import pytest_pyfunc_call, runner

__all__ = ["pytest_pyfunc_call", "quick_watch", "runner"]


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways look at their file a hundred times a second."""
    defaults = dict(Reloader.__init__.__kwdefaults__)
    monkeypatch.setattr(Reloader.__init__, "__kwdefaults__", defaults | {"watch_seconds": 0.01})
