"""Async tests share a loop for each module."""

from tests.coroutines import pytest_pyfunc_call, runner
from tests.e2e.conftest import quick_watch

__all__ = ["pytest_pyfunc_call", "quick_watch", "runner"]
