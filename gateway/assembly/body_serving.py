"""Answers, in its own process, what the gateway asks of large bodies: one after the other."""

import contextlib
import socket

from gateway.config.screening import rebuilt_screenings
from gateway.garbage import give_memory_back
from gateway.proxy.large_bodies.messages import AdaptQuestion, ReadingRules, decode_said, receive, send
from gateway.proxy.large_bodies.reading import LargeBodyReading, adapt

# After larger ones memory goes back to the system. It costs a few milliseconds.
TRIMMED_BYTES = 4 * 1024 * 1024


def serve(channel: socket.socket) -> None:
    """Until the gateway has gone."""
    with contextlib.suppress(ConnectionError):
        reading: LargeBodyReading | None = None
        while (found := receive(channel)) is not None:
            head, raw = found
            said = decode_said(head)
            size = len(raw)
            if isinstance(said.question, AdaptQuestion):
                told, rest = adapt(said.question, raw)
            else:
                if said.rules is not None or reading is None:
                    reading = _reading(said.rules)
                told, rest = reading.read(said.question, raw)
            del found, raw  # before its answer waits to be taken
            send(channel, told, rest)
            del told, rest
            if size > TRIMMED_BYTES:
                give_memory_back()


def _reading(rules: ReadingRules | None) -> LargeBodyReading:
    if rules is None:
        raise ValueError("the first question has to bring rules")
    return LargeBodyReading(rules, rebuilt_screenings(rules.screenings))
