"""The system's clocks."""

import time


class SystemClock:
    """All in seconds. `now` is UTC since 1970, `worked` what the calling thread has had of a processor."""

    monotonic = staticmethod(time.monotonic)
    now = staticmethod(time.time)
    worked = staticmethod(time.thread_time)
