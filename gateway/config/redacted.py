"""The text of a version of the file as it may be kept where others can read it: without its secrets.

Secrets belong into the environment, and `${VAR}` is kept as it stands. One that was written into the file all
the same is taken out, and then the text can be read but no longer be put back.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, SecretStr

from gateway.config.nodes import ConfigNode
from gateway.config.problems import KeyPath
from gateway.config.schema import Settings
from gateway.config.source import Scalar
from gateway.config.urls import Address, ProxyAddress, WebhookAddress

REDACTED: Final = "[secret taken out]"
_REDACTED_COMMENT: Final = f"# {REDACTED}"
WITHHELD: Final = "# This version has secrets in a form that could not be taken out, so it was not kept.\n"

_WORDS_OF_SECRETS: Final = re.compile(r"(?i)pass|secret|token|key")
# What begins like a comment; a number sign in a text may be taken for one, which does no harm.
_COMMENT: Final = re.compile(r"(?:^|(?<=\s))#.*")
# An entry that was commented out, a key's own shape, an address that lets its reader in.
_LOOKS_SECRET: Final = re.compile(
    r"""(?ix)
    (?:pass|secret|token) [\w-]* ["']? \s* [:=] \s* (?! ["']? \$\{) \S{6}
    | key [\w-]* ["']? \s* [:=] \s* (?! ["']? \$\{) (?= \S* \d) \S{12}
    | \b bearer \s+ \S{8}
    | webhook \S* \s* [:=]? \s* ["']? https?://
    | https?:// (?: [^\s/]* @ | hooks\. | \S+ / (?: services | webhooks? | hooks?) / )
    """
)
# Nobody writes so long a word of letters and digits by hand.
_RANDOM: Final = re.compile(r"(?=[\w+/=.~-]*[0-9])(?=[\w+/=.~-]*[A-Za-z])[\w+/=.~-]{20,}")
_SHORTEST_REPEATED: Final = 8


@dataclass(frozen=True, slots=True)
class RedactedText:
    """`whole`: it is the file's own text, so the file can be made from it again."""

    text: str
    whole: bool


def redacted_text(text: str, root: ConfigNode, settings: Settings) -> RedactedText:
    """`text`, which was read as `root` and `settings`, without what is secret in it."""
    lines = text.splitlines(keepends=True)
    whole = True
    written: list[str] = []
    for path in _secret_paths(settings, ()):
        parsed = root.at(path).parsed
        if not isinstance(parsed, Scalar) or parsed.is_blank or not parsed.is_literal:
            continue
        whole = False
        line = lines[parsed.line - 1]
        if not parsed.raw or parsed.raw not in line:  # folded, or written with escapes
            return RedactedText(WITHHELD, whole=False)
        lines[parsed.line - 1] = line.replace(parsed.raw, REDACTED)
        written.append(parsed.raw)
    known = [*written, *_secret_values(settings)]
    shown = [_without_secret_comment(line, known) for line in lines]
    return RedactedText("".join(shown), whole and shown == lines)


def _without_secret_comment(line: str, known: Iterable[str]) -> str:
    """`line` with nothing in place of a comment that holds a secret, or looks as if it did."""
    found = _COMMENT.search(line)
    if found is None:
        return line
    comment = found[0]
    if not (
        _LOOKS_SECRET.search(comment)
        or _RANDOM.search(comment)
        or any(secret in comment for secret in known if len(secret) >= _SHORTEST_REPEATED)
    ):
        return line
    return line[: found.start()] + _REDACTED_COMMENT + line[found.end() :]


def _secret_values(value: Any) -> Iterator[str]:
    """Every secret of these settings, those from the environment too."""
    if isinstance(value, SecretStr):
        if not isinstance(value, Address) or _has_secret(value):
            yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secret_values(getattr(value, name))
    elif isinstance(value, dict | tuple | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _secret_values(inner)


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
    if isinstance(address, WebhookAddress):
        return True
    parts = urlsplit(address.get_secret_value())
    if isinstance(address, ProxyAddress):
        return parts.username is not None
    query = parse_qsl(parts.query, keep_blank_values=True)
    return bool(parts.password) or any(_WORDS_OF_SECRETS.search(name) for name, _ in query)
