"""The text of a version of the file as it may be kept where others can read it: without its secrets.

Secrets belong into the environment, and `${VAR}` is kept as it stands. One that was written into the file all
the same is taken out, and then the text can be read but no longer be put back.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, SecretStr

from gateway.config.nodes import ConfigNode
from gateway.config.problems import KeyPath
from gateway.config.schema import Settings
from gateway.config.source import Scalar
from gateway.config.urls import Address, ProxyAddress

REDACTED: Final = "[secret taken out]"
WITHHELD: Final = "# This version has secrets in a form that could not be taken out, so it was not kept.\n"

_WORDS_OF_SECRETS: Final = re.compile(r"(?i)pass|secret|token|key")


@dataclass(frozen=True, slots=True)
class RedactedText:
    """`whole`: it is the file's own text, so the file can be made from it again."""

    text: str
    whole: bool


def redacted_text(text: str, root: ConfigNode, settings: Settings) -> RedactedText:
    """`text`, which was read as `root` and `settings`, without what is secret in it."""
    lines = text.splitlines(keepends=True)
    whole = True
    for path in _secret_paths(settings, ()):
        parsed = root.at(path).parsed
        if not isinstance(parsed, Scalar) or parsed.is_blank or not parsed.is_literal:
            continue
        whole = False
        line = lines[parsed.line - 1]
        if not parsed.raw or parsed.raw not in line:  # folded, or written with escapes
            return RedactedText(WITHHELD, whole=False)
        lines[parsed.line - 1] = line.replace(parsed.raw, REDACTED)
    return RedactedText("".join(lines), whole)


def _secret_paths(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, SecretStr):
        if not isinstance(value, Address) or _has_secret(value):
            yield path
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secret_paths(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _secret_paths(inner, (*path, name))
    elif isinstance(value, tuple | list):
        for index, inner in enumerate(value):
            yield from _secret_paths(inner, (*path, index))


def _has_secret(address: Address) -> bool:
    parts = urlsplit(address.get_secret_value())
    if isinstance(address, ProxyAddress):
        return parts.username is not None
    query = parse_qsl(parts.query, keep_blank_values=True)
    return bool(parts.password) or any(_WORDS_OF_SECRETS.search(name) for name, _ in query)
