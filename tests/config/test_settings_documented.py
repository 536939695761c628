"""docs/configuration.md says of every key what the schema says.

The tables of that page are written by `python tests/config/test_settings_documented.py`.
"""

import datetime
import re
import types
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.config.kinds import Section
from gateway.config.not_in_force import NOT_IN_FORCE
from gateway.config.schema import Settings
from gateway.config.urls import Address, WebhookAddress

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
_TABLE = re.compile(r"<!-- keys: (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
_NOT_IN_FORCE = re.compile(r"<!-- not in force -->\n(.*?)<!-- end -->", re.DOTALL)
_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "true or false",
    SecretStr: "secret",
    Address: "URL",
    WebhookAddress: "URL",
    Path: "path",
    datetime.date: "date",
    datetime.datetime: "date and time",
}


def bare(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return bare(get_args(annotation)[0])
    return annotation


def type_words(annotation: Any) -> str:
    kind = bare(annotation)
    if get_origin(kind) is Literal:
        return "one of " + " ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list: {type_words(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"by name: {type_words(get_args(kind)[1])}"
    return _WORDS.get(kind, "section")


def default_words(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    default = field.default
    if default is PydanticUndefined:
        return "see meaning"
    if isinstance(default, Address):
        return f"`{default.get_secret_value()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(default)}]`"
    if default is None or default == {} or isinstance(default, Section):
        return "none" if default is None else "empty"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def child(annotation: Any) -> tuple[str, type[Section]] | None:
    """The section within `annotation`, and what its path continues with."""
    kind = bare(annotation)
    if get_origin(kind) is dict:
        return (".*", inner) if issubclass(inner := bare(get_args(kind)[1]), Section) else None
    if get_origin(kind) is tuple:
        inner = bare(get_args(kind)[0])
        return ("[]", inner) if isinstance(inner, type) and issubclass(inner, Section) else None
    return ("", kind) if isinstance(kind, type) and issubclass(kind, Section) else None


def rows(section: type[Section], prefix: str, seen: dict[type[Section], str]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        inner = child(field.annotation)
        meaning = field.description
        if inner and inner[1] in seen:
            meaning = f"{meaning}; keys as in `{seen[inner[1]]}`"
        yield f"| `{path}` | {type_words(field.annotation)} | {default_words(field)} | {meaning} |"
        if inner and inner[1] not in seen:
            seen[inner[1]] = path + inner[0]
            yield from rows(inner[1], f"{path}{inner[0]}.", seen)


def tables() -> dict[str, str]:
    """The table of each top-level key."""
    head = "| key | type | default | meaning |\n|---|---|---|---|\n"
    found: dict[str, str] = {}
    for row in rows(Settings, "", {}):
        top = row.removeprefix("| `").split("`")[0].split(".")[0].split("[")[0]
        found[top] = found.get(top, head) + row + "\n"
    return found


@pytest.mark.parametrize("key", list(tables()))
def test_every_key_is_documented_as_the_schema_has_it(key: str) -> None:
    written = dict(_TABLE.findall(PAGE.read_text()))
    assert written.get(key) == tables()[key], f"run: python {Path(__file__).name}"


def not_in_force_table() -> str:
    """What is accepted and not in force yet, as a table."""
    found: dict[tuple[str, str], list[str]] = {}
    for setting in NOT_IN_FORCE:
        concerned = "any"
        if setting.only or setting.but:
            words = ", ".join(f"`{word}`" for word in setting.only or setting.but)
            concerned = words if setting.only else f"other than {words}"
        found.setdefault((concerned, setting.instead), []).append(f"`{setting.pattern}`")
    body = "".join(f"| {', '.join(keys)} | {value} | {then} |\n" for (value, then), keys in found.items())
    return "| key | value | for now |\n|---|---|---|\n" + body


def test_what_is_not_in_force_is_documented() -> None:
    written = _NOT_IN_FORCE.search(PAGE.read_text())
    assert written is not None
    assert written[1] == not_in_force_table(), f"run: python {Path(__file__).name}"


def write() -> None:
    """Writes the tables into the page."""
    fresh = tables()
    page = _TABLE.sub(lambda m: f"<!-- keys: {m[1]} -->\n{fresh[m[1]]}<!-- end -->", PAGE.read_text())
    PAGE.write_text(
        _NOT_IN_FORCE.sub(lambda m: f"<!-- not in force -->\n{not_in_force_table()}<!-- end -->", page)
    )


if __name__ == "__main__":
    write()
