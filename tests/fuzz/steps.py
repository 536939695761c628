"""A bound on work that no clock decides: lines of the gateway's own code that run."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import gateway

_OURS = str(Path(gateway.__file__).parent)


class TooManySteps(AssertionError):
    """An input costs more lines than its size allows: a hang, or work that grows faster than the input."""


class Steps:
    """What has run so far."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    def trace(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            return self.trace if frame.f_code.co_filename.startswith(_OURS) else None
        if event == "line":
            self.taken += 1
            if self.taken > self.most:
                raise TooManySteps(f"more than {self.most:,} lines")
        return self.trace


@contextmanager
def bounded(most: int) -> Iterator[Steps]:
    """Raises TooManySteps inside once so many lines of `gateway` have run on this thread.

    What runs inside of a C library, a regular expression say, is not seen.
    """
    steps = Steps(most)
    before = sys.gettrace()
    sys.settrace(steps.trace)
    try:
        yield steps
    finally:
        sys.settrace(before)
