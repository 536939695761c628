"""How many bytes of bodies may be held at once: by the process, and for each key.

Counted is what has arrived and, decompressed, what came of it, from the first byte of a body to the end of
its request: it may have to be sent again. Of who asks nothing is known before the key was read, so until then
a body counts for the process alone. Bodies that fit into one read of a socket are not worth counting.
"""

import threading
from collections.abc import Callable

from gateway.core.errors import GatewayError, LimitExceeded, Unavailable

MIB = 1024 * 1024
# Smaller bodies are not counted.
COUNTED_BYTES = 64 * 1024
RETRY_SECONDS = 1.0
# After so many bytes of bodies at once, most of which are gone again, memory is worth giving back.
DRAINED_BYTES = 16 * MIB


class BodyBytes:
    """All bodies of one process. Used by the loop's thread, and by those that decompress."""

    def __init__(self, most: int, most_of_key: int, drained: Callable[[], None] = lambda: None) -> None:
        """`most` and `most_of_key` are bytes. `drained` is called, on any thread, when many are freed."""
        self.held = 0
        self._most = most
        self._most_of_key = most_of_key
        self._of_keys: dict[str, int] = {}
        self._drained = drained
        self._peak = 0
        self._lock = threading.Lock()

    def configure(self, most: int, most_of_key: int) -> None:
        """Other bounds, for what comes from now on."""
        self._most, self._most_of_key = most, most_of_key

    def held_of(self, key: str) -> int:
        """Bytes that are held for requests of `key`."""
        return self._of_keys.get(key, 0)

    def grow(self, body: "HeldBody", size: int) -> None:
        """`body` has `size` bytes from now on, and no fewer than before.

        Raises LimitExceeded where that is too much for its key, and Unavailable for the process.
        """
        with self._lock:
            more = size - body.size
            if body.is_closed or more <= 0:
                return
            if self.held + more > self._most:
                raise _too_much(self._most)
            if body.key is not None:
                self._add_to_key(body.key, more)
            self.held += more
            self._peak = max(self._peak, self.held)
            body.size = size

    def belong(self, body: "HeldBody", key: str) -> None:
        """`body` is one of `key`. Raises LimitExceeded."""
        with self._lock:
            if body.key is None and not body.is_closed:
                self._add_to_key(key, body.size)
                body.key = key

    def close(self, body: "HeldBody") -> None:
        """`body` is held no longer, and grows no more."""
        with self._lock:
            if body.is_closed:
                return
            body.is_closed = True
            self.held -= body.size
            if body.key is not None:
                left = self.held_of(body.key) - body.size
                if left:
                    self._of_keys[body.key] = left
                else:
                    self._of_keys.pop(body.key, None)
            is_drained = self._peak >= DRAINED_BYTES and self.held <= self._peak // 8
            if is_drained:
                self._peak = self.held
        if is_drained:
            self._drained()

    def _add_to_key(self, key: str, more: int) -> None:
        held = self.held_of(key) + more
        if held > self._most_of_key:
            raise _too_much_of(key, self._most_of_key)
        if held:
            self._of_keys[key] = held


class HeldBody:
    """One body: its bytes so far, and whose it is. None: of a key that is not known yet."""

    __slots__ = ("is_closed", "key", "size")

    def __init__(self) -> None:
        self.key: str | None = None
        self.size = 0
        self.is_closed = False


def _too_much(most: int) -> GatewayError:
    return Unavailable(
        f"The gateway holds as many bytes of request bodies as it may ({most // MIB} MiB). Retry shortly.",
        retry_after_seconds=RETRY_SECONDS,
    )


def _too_much_of(key: str, most: int) -> GatewayError:
    return LimitExceeded(
        f"The request bodies of key:{key} in flight are larger than {most // MIB} MiB together. Retry when "
        "one ends, or send smaller ones.",
        scope=f"key:{key}",
        limit="body_bytes",
        retry_after_seconds=RETRY_SECONDS,
    )
