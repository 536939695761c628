"""Coroutine tests of a module share one gateway."""

from tests.e2e.coroutines import pytest_pyfunc_call, runner

__all__ = ["pytest_pyfunc_call", "runner"]
