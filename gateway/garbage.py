"""When a process that serves collects garbage: reference counts free nearly all that a request makes."""

import ctypes
import gc


def start_without_collecting() -> None:
    """Nothing that is loaded is garbage, and a sixth of a start would go into looking for some."""
    gc.disable()


def collect_seldom() -> None:
    """From now on: what the start built lives as long as the process, so it is never looked at again.

    The defaults run a full collection every few thousand requests, and each one stops the loop for as long
    as it takes to look at every imported module.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def give_memory_back() -> None:
    """Return free memory to the system. The allocator keeps what it has had: after a large body, for good.

    Takes some milliseconds, without the interpreter's lock. Does nothing where the allocator is not glibc's.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
