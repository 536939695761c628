"""Whether an event of a stream carries anything of the answer, or only opens it, or keeps it alive."""

from typing import Any

from gateway.core.lenient import NoObject, loads_with_writer

# Members of a delta that say nothing by themselves: who speaks, and where a piece belongs.
_SILENT = frozenset({"role", "index", "type"})
# Where a choice has what it says: streams of chat, of completions, and of servers that mix them up.
_SPEAKING = ("delta", "text", "message")


def says_something(data: bytes) -> bool:
    """Whether a choice of the event carries text, reasoning, a refusal, speech or a tool call, even its name.

    Of any other member that is not empty, too: what is not known must not wait.
    """
    try:
        event, _ = loads_with_writer(data)
        choices = event.get("choices") if isinstance(event, dict) else None
        return isinstance(choices, list) and any(map(_speaks, choices))
    except (NoObject, RecursionError):
        return True


def _speaks(choice: Any) -> bool:
    return isinstance(choice, dict) and any(_is_filled(choice.get(name)) for name in _SPEAKING)


def _is_filled(value: Any) -> bool:
    if isinstance(value, dict):
        return any(name not in _SILENT and _is_filled(member) for name, member in value.items())
    if isinstance(value, list):
        return any(map(_is_filled, value))
    return bool(value)
