"""The body of a request as one dialect has it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from gateway.dialects.table import (
    DEVELOPER,
    EFFORTS,
    EXTENSIONS,
    LISTED,
    STEERING,
    TREATED,
    UNKNOWN,
    DeveloperRole,
    MetadataRule,
    ServerDialect,
    Steering,
    UnknownFields,
)

_Body = dict[str, Any]

_TOLD = TREATED | EXTENSIONS
_KNOWN = LISTED | _TOLD


def adapted(rest: bytes, members: frozenset[str], dialect: ServerDialect) -> tuple[bytes, tuple[str, ...]]:
    """`rest` (a JSON object) as `dialect` has it, and which of its `members` go out changed or not at all.

    `members` are its `members_of`, and DEVELOPER.
    """
    if not is_concerned(members, dialect):
        return rest, ()
    concerned = sorted(name for name in members if _is_concerned(name, dialect))
    body = orjson.loads(rest)
    changed = tuple([name for name in concerned if _TREATMENTS.get(name, _drop)(body, name, dialect)])
    return (orjson.dumps(body), changed) if changed else (rest, ())


def is_concerned(members: frozenset[str], dialect: ServerDialect) -> bool:
    """Whether a body with `members` may have to be changed for `dialect`."""
    return any(_is_concerned(name, dialect) for name in members)


def members_of(names: Iterable[str]) -> frozenset[str]:
    """Those of a body's `names` that dialects treat differently, and UNKNOWN where some are on no list."""
    found = _TOLD.intersection(names)
    return found if _KNOWN.issuperset(names) else found | {UNKNOWN}


def steering(members: frozenset[str], dialect: ServerDialect) -> frozenset[str]:
    """The fields among `members` that steer engines and routers, and that `dialect` does not allow."""
    return (members & STEERING) - dialect.allows


def refused_members(members: frozenset[str], dialect: ServerDialect) -> frozenset[str]:
    """The fields among `members` for which a request must not be sent."""
    refused = steering(members, dialect) if dialect.steering is Steering.REFUSE else frozenset()
    if dialect.unknown_fields is UnknownFields.REFUSE:
        refused |= {name for name in members if _is_unknown(name, dialect)}
    return refused


def _is_unknown(name: str, dialect: ServerDialect) -> bool:
    """Whether `name`, a member as they are told, is none that `dialect` is known to read."""
    return name == UNKNOWN or (
        name in EXTENSIONS and name not in dialect.reads and name not in dialect.allows
    )


def _is_concerned(name: str, dialect: ServerDialect) -> bool:
    if _is_unknown(name, dialect):
        return dialect.unknown_fields is UnknownFields.DROP
    if name == DEVELOPER:
        return dialect.developer is DeveloperRole.SYSTEM
    if name == "metadata":
        return dialect.metadata is not MetadataRule.ALWAYS
    if name == "reasoning_effort":
        return dialect.efforts is not None
    return name in STEERING and name not in dialect.allows


def _drop(body: _Body, name: str, _dialect: ServerDialect) -> bool:
    return body.pop(name, None) is not None


def _drop_unknown(body: _Body, _name: str, _dialect: ServerDialect) -> bool:
    unknown = body.keys() - _KNOWN
    for name in unknown:
        del body[name]
    return bool(unknown)


def _metadata(body: _Body, name: str, dialect: ServerDialect) -> bool:
    if dialect.metadata is MetadataRule.WITH_STORE and body.get("store") is True:
        return False
    return body.pop(name, None) is not None


def _developer(body: _Body, _name: str, _dialect: ServerDialect) -> bool:
    found = [message for message in body.get("messages", ()) if message.get("role") == "developer"]
    for message in found:
        message["role"] = "system"
    return bool(found)


def _effort(body: _Body, name: str, dialect: ServerDialect) -> bool:
    """The nearest effort that the server takes, the lesser of two. What nobody knows is for it to judge."""
    wanted, taken = body.get(name), dialect.efforts
    if taken is None or wanted not in EFFORTS or wanted in taken:
        return False
    if not taken:
        return body.pop(name) is not None
    rank = EFFORTS.index(wanted)
    known = [EFFORTS.index(each) for each in taken]
    body[name] = EFFORTS[min(known, key=lambda each: (abs(each - rank), each))]
    return True


_TREATMENTS: Mapping[str, Callable[[_Body, str, ServerDialect], bool]] = {
    DEVELOPER: _developer,
    UNKNOWN: _drop_unknown,
    "metadata": _metadata,
    "reasoning_effort": _effort,
}
