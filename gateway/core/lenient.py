"""Read JSON whose members are not what they should be: what does not fit counts as left out.

For what strict decoding refused. Strings with lone surrogates and numbers that are none are JSON to many
clients and servers; the standard library reads them, msgspec and orjson do not.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import msgspec
import orjson
from msgspec import inspect

S = TypeVar("S", bound=msgspec.Struct)
_LONG_NUMBER = re.compile(rb"\d{20}")


class NoObject(ValueError):
    """The text is no JSON object."""


def loads(text: bytes) -> Any:
    """Any JSON value. Raises NoObject for what is none, and RecursionError."""
    try:
        return json.loads(text)
    except ValueError as exc:  # UnicodeDecodeError is one
        raise NoObject("no JSON") from exc


def dumps(value: Any) -> bytes:
    """`value` as `loads` gave it, on one line, with lone surrogates as escapes."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def loads_with_writer(text: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    """As `loads`, and what writes such values: quickly where it can be, whatever the text holds otherwise."""
    if _LONG_NUMBER.search(text):
        return loads(text), dumps  # orjson reads an integer beyond 64 bits as a float
    try:
        return orjson.loads(text), write_quickly
    except orjson.JSONDecodeError:
        return loads(text), dumps


def write_quickly(value: Any) -> bytes:
    """`value` as orjson read it: it reads deeper nesting than it writes. Raises RecursionError."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return dumps(value)


def read_leniently(text: bytes, kind: type[S]) -> tuple[S, frozenset[str]]:
    """The members of `text` that fit `kind`, and the paths of the others, such as `usage.total_tokens`.

    Items of a list have the path of the list. Raises NoObject, and RecursionError.
    """
    value = loads(text)
    if not isinstance(value, dict):
        raise NoObject("no JSON object")
    misfits: set[str] = set()
    found: S = _fitting(cast("inspect.StructType", inspect.type_info(kind)), value, "", misfits)
    return found, frozenset(misfits)


_MISFIT = object()


def _fitting(info: inspect.StructType, value: dict[str, Any], path: str, misfits: set[str]) -> Any:
    members = {}
    for field in info.fields:
        if field.encode_name not in value:
            continue
        at = f"{path}{field.encode_name}"
        member = _member(field.type, value[field.encode_name], at, misfits)
        if member is _MISFIT:
            misfits.add(at)
        else:
            members[field.name] = member
    return info.cls(**members)


def _member(info: inspect.Type, value: Any, path: str, misfits: set[str]) -> Any:
    """`value` as `info` wants it, or `_MISFIT`."""
    for option in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(option, inspect.StructType):
            if isinstance(value, dict):
                return _fitting(option, value, f"{path}.", misfits)
        elif isinstance(option, inspect.ListType):
            if isinstance(value, list):
                return _items(option.item_type, value, path, misfits)
        elif _is(option, value):
            return msgspec.Raw(dumps(value)) if isinstance(option, inspect.RawType) else value
    return _MISFIT


def _items(info: inspect.Type, values: list[Any], path: str, misfits: set[str]) -> list[Any]:
    items = [_member(info, value, path, misfits) for value in values]
    if isinstance(info, inspect.StructType):
        # A choice that is none still counts as one: its place in the list tells it apart.
        return [info.cls() if item is _MISFIT else item for item in items]
    return [item for item in items if item is not _MISFIT]


# What a value of each plain type is like. A number must be one: neither infinite nor `NaN`.
_PLAIN: Mapping[type[inspect.Type], Callable[[Any], bool]] = {
    inspect.RawType: lambda _: True,
    inspect.NoneType: lambda value: value is None,
    inspect.BoolType: lambda value: type(value) is bool,
    inspect.IntType: lambda value: type(value) is int,
    inspect.FloatType: lambda value: type(value) is float and math.isfinite(value),
    inspect.StrType: lambda value: type(value) is str and is_unicode(value),
}


def _is(info: inspect.Type, value: Any) -> bool:
    plain = _PLAIN.get(type(info))
    return plain is not None and plain(value)


def is_unicode(text: str) -> bool:
    """Whether `text` can be written in UTF-8: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
