"""Mixed requests: chats whole and streamed, with and without tools, and those that are refused."""

import random

from tests.chaos.load import request_of, usual_body

_TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "When the water is high.",
        "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}},
    },
}
_WITH_TOOLS, _UNKNOWN_MODEL, _NO_MESSAGES, _WRONG_KEY = 0.15, 0.17, 0.18, 0.19


def mixed_request(chance: random.Random) -> bytes:
    """A usual one four times of five."""
    which = chance.random()
    body = usual_body(chance)
    if which < _WITH_TOOLS:
        body["tools"] = [_TOOL]
    elif which < _UNKNOWN_MODEL:
        body["model"] = f"unknown-{chance.randrange(1_000_000)}"  # no name of a client may become a series
    elif which < _NO_MESSAGES:
        del body["messages"]
    elif which < _WRONG_KEY:
        return request_of(chance, body).replace(b"Bearer key-", b"Bearer kex-")
    return request_of(chance, body)
