"""Async tests share a loop for each module."""

from tests.coroutines import pytest_pyfunc_call, runner

__all__ = ["pytest_pyfunc_call", "runner"]
