"""Async tests share a loop for each module."""

from tests.e2e.coroutines import pytest_pyfunc_call, runner

__all__ = ["pytest_pyfunc_call", "runner"]
