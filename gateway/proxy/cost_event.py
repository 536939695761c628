"""What a stream cost, as an event of it: for clients that cannot read trailers and ask for it."""

import re

import orjson

from gateway.core.catalog import Api
from gateway.core.pricing import usd_text
from gateway.core.sent import Sent

# At the beginning of a line: text of the answer stands in JSON, which has no line ends of its own.
_DONE = re.compile(rb"(?:\A|(?<=[\r\n]))data: ?\[DONE\]")
_BLANK_LINES = (b"\n\n", b"\r\r", b"\r\n\r\n")
_OBJECTS = {Api.CHAT: "chat.completion.chunk", Api.COMPLETIONS: "text_completion"}


def with_cost_event(last: bytes, sent: Sent, nano: int, *, estimated: bool) -> bytes:
    """`last`, which ends a stream, with the event before its [DONE]: clients read no further than that.

    `nano` is what it cost in nano-USD, `estimated` whether that is so. The event is a chunk without choices,
    as the one that says the usage is.
    """
    event = b"data: %b\n\n" % orjson.dumps(_chunk(sent, nano, estimated))
    done = list(_DONE.finditer(last))
    if done:
        at = done[-1].start()
        return last[:at] + event + last[at:]
    return last + (b"" if not last or last.endswith(_BLANK_LINES) else b"\n\n") + event


def _chunk(sent: Sent, nano: int, estimated: bool) -> dict[str, object]:
    return {
        "id": sent.request_id,
        "object": _OBJECTS.get(sent.call.api, "chat.completion.chunk"),
        "created": sent.at // 1_000_000,
        "model": sent.candidate.deployment.model,
        "choices": [],
        "tollway": {"cost_usd": usd_text(nano), "estimated": estimated},
    }
