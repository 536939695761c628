"""Turns what the schema finds into plain words that say what to do."""

import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from gateway.config.kinds import PLAIN, Blank, Section
from gateway.config.nodes import ConfigNode
from gateway.config.problems import KeyPath, did_you_mean, either
from gateway.config.schema import Settings

_MAPPING = "must be a mapping of keys to values"
_MESSAGES = {
    "string_type": "must be a single text",
    "tuple_type": "must be a list such as [a, b]",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "path_type": "must be a path",
    "string_unicode": "must be valid Unicode text",
    "too_short": "must not be empty",
}


def messages_of(error: ValidationError, root: ConfigNode) -> Iterator[tuple[KeyPath, str]]:
    """Each error of the schema as (path, message)."""
    for details in error.errors(include_url=False):
        if _follows_from_another(details):
            continue
        path = tuple(part for part in details["loc"] if part != "[key]")
        yield path, _message(details, path, root.at(path))


def _follows_from_another(details: ErrorDetails) -> bool:
    """A default that needs a broken field, and a list that is too short without its broken elements."""
    kind = details["type"]
    return kind == "default_factory_not_called" or (kind == "too_short" and bool(details["input"]))


def _message(details: ErrorDetails, path: KeyPath, node: ConfigNode) -> str:
    kind = details["type"]
    if kind == "missing":
        return f"is required: {_description(path)}"
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if isinstance(details["input"], Blank):
        return "is empty: give a value, or remove the line"
    if kind == "literal_error":
        return _not_a_choice(re.findall(r"'([^']*)'", details.get("ctx", {})["expected"]), node)
    if kind == PLAIN:
        return _own_message(details.get("ctx", {}), details["loc"][-1:] == ("[key]",) or node.is_literal)
    return _MESSAGES.get(kind, "cannot be used here")


def _own_message(context: dict[str, Any], may_quote: bool) -> str:
    aside = context["aside"] if may_quote else ""
    return f"{context['message']}; {aside}" if aside else str(context["message"])


def _not_a_choice(choices: list[str], node: ConfigNode) -> str:
    shown = f", not {node.quoted}" if node.is_literal else ""
    return f"must be {either(choices)}{shown}{node.hint(tuple(choices))}"


def _unknown_key(path: KeyPath) -> str:
    known = sorted(field_names(path[:-1]))
    near = did_you_mean(str(path[-1]), known)
    return f"unknown key; {near}" if near else f"unknown key; known here: {', '.join(known)}"


def _description(path: KeyPath) -> str:
    section = _type_at(path[:-1])
    field = section.model_fields.get(str(path[-1])) if _is_section(section) else None
    return (field.description if field else None) or "give a value"


def field_names(path: KeyPath) -> tuple[str, ...]:
    """Keys that the schema knows at `path`."""
    section = _type_at(path)
    return tuple(section.model_fields) if _is_section(section) else ()


def _type_at(path: KeyPath) -> Any:
    """The schema's type at `path`."""
    return bare_type(annotation_at(path))


def annotation_at(path: KeyPath) -> Any:
    """What the schema says of `path`, without `| None`; None where it knows nothing of it."""
    found: Any = Settings
    for part in path:
        around = bare_type(found)
        if _is_section(around):
            field: FieldInfo | None = around.model_fields.get(str(part))
            found = field.annotation if field else None
        else:
            arguments = get_args(around)
            found = arguments[-1 if get_origin(around) is dict else 0] if arguments else None
    return _given(found)


def bare_type(annotation: Any) -> Any:
    """`annotation` without `Annotated` and without `| None`."""
    given = _given(annotation)
    return bare_type(get_args(given)[0]) if get_origin(given) is Annotated else given


def _given(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
