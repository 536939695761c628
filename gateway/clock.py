"""The system's clocks."""

import time


class SystemClock:
    """`monotonic` and `now` in seconds; `now` is UTC since 1970."""

    monotonic = staticmethod(time.monotonic)
    now = staticmethod(time.time)
