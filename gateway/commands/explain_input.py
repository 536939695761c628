"""The request that `tollway policy explain` is asked about: flags, a JSON file, or a curl line."""

import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer

from gateway.core.catalog import Api
from gateway.core.errors import GatewayError
from gateway.core.parse import parse_call
from gateway.core.tenancy import Tenancy
from gateway.policy.explain import DecisionQuestion
from gateway.policy.proof.witness import MEMBERS, PARTS, add_members
from gateway.proxy.auth import digest
from gateway.proxy.entrances import entrance_of

_DATA: Final = frozenset({"-d", "--data", "--data-raw", "--data-binary", "--data-ascii", "--json"})
_WITH_VALUE: Final = frozenset(
    {"-X", "--request", "-o", "--output", "-m", "--max-time", "-u", "--user", "-A", "--user-agent", "-w"}
    | {"--cacert", "--cert", "--key", "--connect-timeout", "-x", "--proxy", "--retry", "--write-out"}
)
_PATHS: Final = {"embeddings": Api.EMBEDDINGS, "chat/completions": Api.CHAT, "completions": Api.COMPLETIONS}
_BODY_KEYS: Final = {"messages": Api.CHAT, "prompt": Api.COMPLETIONS, "input": Api.EMBEDDINGS}


@dataclass(slots=True)
class ExplainInput:
    """A request as it would come in. Header names are in lower case."""

    body: bytes = b""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)


def read_request(file: str) -> ExplainInput:
    """The body in `file`; `-` is standard input."""
    try:
        return ExplainInput(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
    except OSError as exc:
        raise typer.BadParameter(f"{file}: {exc.strerror}", param_hint="--request") from exc


def read_curl(line: str) -> ExplainInput:
    """What a curl command would send. Its options that do not matter here are passed over."""
    try:
        words = iter(shlex.split(line.replace("\\\n", " ")))
    except ValueError as exc:
        raise typer.BadParameter(f"cannot be read: {exc}", param_hint="--curl") from exc
    request = ExplainInput()
    for word in words:
        name, joined, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if word[:2] in ("-H", "-d") and len(word) > 2 and not word.startswith("--"):
            name, joined, value = word[:2], "=", word[2:]
        if name in ("-H", "--header"):
            request.headers |= header(value if joined else next(words, ""))
        elif name in _DATA:
            request.body += _data(value if joined else next(words, ""))
        elif name == "--url":
            request.path = urlsplit(value if joined else next(words, "")).path
        elif name in _WITH_VALUE:
            next(words, "")
        elif not word.startswith("-") and "/" in word:
            request.path = urlsplit(word).path
    return request


def header(line: str) -> dict[str, str]:
    """One header written as `name: value`."""
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"write a header as 'name: value', not {line!r}", param_hint="--header")
    return {name.strip().lower(): value.strip()}


def body_of(model: str, text: str, modalities: list[str], members: dict[str, Any]) -> bytes:
    """The body of a chat request made of flags."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    parts += [_PARTS[name] for name in modalities if name != "text"]
    content = text if len(parts) == 1 else parts
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": content}], **members}
    ).encode()


_PARTS: Final = {kind.value: part for kind, part in PARTS.items()}
_NEEDS: Final = {need.value: members for need, members in MEMBERS.items()}
MODALITIES: Final = ("text", *_PARTS)
NEEDS: Final = tuple(_NEEDS)


def members_for(needs: list[str]) -> dict[str, Any]:
    """The members of a body that ask for capabilities."""
    made: dict[str, Any] = {}
    for need in needs:
        add_members(made, _NEEDS[need])
    return made


def question(
    request: ExplainInput, tenancy: Tenancy, key: str | None, feature: str | None, most: int
) -> DecisionQuestion:
    """Raises typer.BadParameter for a body that no endpoint would take."""
    try:
        call, body = parse_call(_api(request), request.body, most, entrance_of(request.path).model)
    except GatewayError as error:
        raise typer.BadParameter(error.message) from error
    return DecisionQuestion(
        call=call, body=body, key=key or _key_of(request, tenancy), feature=feature, headers=request.headers
    )


def _api(request: ExplainInput) -> Api:
    for ending, api in _PATHS.items():
        if request.path.rstrip("/").endswith(ending):
            return api
    try:
        body = json.loads(request.body)
    except ValueError:
        return Api.CHAT
    return next(
        (api for name, api in _BODY_KEYS.items() if isinstance(body, dict) and name in body), Api.CHAT
    )


def _key_of(request: ExplainInput, tenancy: Tenancy) -> str | None:
    """The name of the key whose secret the request carries; `$NAME` is looked up in the environment."""
    sent = request.headers.get("authorization", "").partition(" ")[2].strip() or request.headers.get(
        "api-key"
    )
    if not sent:
        return None
    secret = os.path.expandvars(sent)
    entry = tenancy.keys.get(digest(tenancy.pepper, secret))
    if entry is None:
        raise typer.BadParameter("the secret in the request is that of no key: name one with --key")
    return entry.name


def _data(value: str) -> bytes:
    if not value.startswith("@"):
        return value.encode()
    try:
        return Path(value[1:]).read_bytes()
    except OSError as exc:
        raise typer.BadParameter(f"{value[1:]}: {exc.strerror}", param_hint="--curl") from exc
