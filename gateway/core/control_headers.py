"""Headers by which a client steers the gateway. What cannot be read is refused, never guessed at."""

from collections.abc import Mapping

from gateway.core.call import MAX_TAG_LENGTH, MAX_TAGS
from gateway.core.errors import InvalidRequest
from gateway.core.overload import Priority

TAGS = "x-tollway-tags"
COST_EVENT = b"x-tollway-cost-event"
PRIORITY = b"x-tollway-priority"
_SWITCH = {b"true": True, b"false": False}


def tags_in(header: bytes) -> dict[str, str]:
    """The tags of `name=value,...` in UTF-8. Raises InvalidRequest where it is anything else."""
    try:
        text = header.decode()
    except UnicodeDecodeError as exc:
        raise _unreadable("the text is not UTF-8") from exc
    # As in every list of HTTP, an element may be empty.
    pairs = [pair for pair in text.split(",") if pair.strip()]
    if len(pairs) > MAX_TAGS:
        raise _unreadable(f"there are more than {MAX_TAGS} tags")
    tags: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        name, equals, value = map(str.strip, pair.partition("="))
        if not equals or not name:
            raise _unreadable(f"tag {number} has no {'name' if equals else '='}")
        if len(name) > MAX_TAG_LENGTH or len(value) > MAX_TAG_LENGTH:
            raise _unreadable(f"tag {number} is longer than {MAX_TAG_LENGTH} characters")
        if name in tags:
            raise _unreadable(f"tag {number} has the name of one before it")
        tags[name] = value
    return tags


def wants_cost_event(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a stream is to end with an event that says what it cost. Raises InvalidRequest."""
    value = headers.get(COST_EVENT)
    if value is None:
        return False
    found = _SWITCH.get(value.strip().lower())
    if found is None:
        name = COST_EVENT.decode()
        raise InvalidRequest(f"The header {name} can be true or false.", param=name, code="invalid_header")
    return found


def priority_in(header: bytes) -> Priority:
    """What the header x-tollway-priority says. Raises InvalidRequest."""
    try:
        return Priority(header.strip().lower().decode("latin-1"))
    except ValueError:
        name = PRIORITY.decode()
        raise InvalidRequest(
            f"The header {name} can be {' or '.join(Priority)}.", param=name, code="invalid_header"
        ) from None


def _unreadable(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The header {TAGS} cannot be read: {why}. Send it as name=value,name=value in UTF-8.",
        param=TAGS,
        code="invalid_header",
    )
