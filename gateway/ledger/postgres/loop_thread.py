"""An event loop for code that runs on none: commands, and threads of the gateway."""

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines to their end on an event loop and a thread of its own, wherever the caller runs."""

    def __enter__(self) -> Self:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="ledger-reading")
        self._runner = asyncio.Runner()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. The coroutine must have a deadline of its own."""
        return self._thread.submit(self._runner.run, coroutine).result()
