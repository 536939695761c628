"""The addresses of the data port: those of OpenAI, and those of Azure OpenAI for the same endpoints.

Azure's have the model in their path, or are OpenAI's own under `/openai`. A client for Azure that was given a
base URL for OpenAI asks below `/v1`. Their `api-version` is not read: there is one version of this API.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

from gateway.core.catalog import Api
from gateway.core.errors import NotFound

COMPLETIONS = {
    "/v1/chat/completions": Api.CHAT,
    "/v1/completions": Api.COMPLETIONS,
    "/v1/embeddings": Api.EMBEDDINGS,
}
MODELS = "/v1/models"

_AZURE = "/openai"
_DEPLOYMENTS = re.compile(r"(?:/openai|/v1|/openai/v1)/deployments/([^/]+)/(.+)")


class Entrance(NamedTuple):
    """An address as OpenAI spells it, and the model that it names, if it names one."""

    path: str
    model: str | None = None


def entrance_of(path: str) -> Entrance:
    """The entrance at `path`, which is raw. Raises NotFound for a model whose name cannot be decoded."""
    path = path.rstrip("/")
    if addressed := _DEPLOYMENTS.fullmatch(path):
        return Entrance(f"/v1/{addressed[2]}", decoded(addressed[1]))
    if path.startswith("/openai/v1/"):
        return Entrance(path[len(_AZURE) :])
    if path == "/openai/models" or path.startswith("/openai/models/"):
        return Entrance(f"/v1{path[len(_AZURE) :]}")
    return Entrance(path)


def route_of(path: str) -> str | None:
    """The known address that `path` (raw) is a spelling of, without the names in it; None for any other."""
    if path in COMPLETIONS:
        return path
    try:
        known = entrance_of(path).path
    except NotFound:
        return None
    if known.startswith(MODELS + "/"):
        return MODELS + "/{model}"
    return known if known in COMPLETIONS or known == MODELS else None


def is_entrance(path: str) -> bool:
    """Whether a browser may ask what it may send to `path`."""
    return path.startswith(("/v1/", f"{_AZURE}/"))


def decoded(name: str) -> str:
    """A segment of a path, percent-decoded. Raises NotFound."""
    try:
        return unquote(name, errors="strict")
    except UnicodeDecodeError as exc:
        raise NotFound("The name in this URL is not UTF-8.") from exc
