"""`POST /admin/v1/reload`: bring the configuration file as it is now into force."""

from collections.abc import Awaitable, Callable
from typing import Literal

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel

from gateway.core.envelope import envelope, retry_headers
from gateway.core.errors import GatewayError, InvalidRequest, Unavailable

RETRY_SECONDS = 5.0


class ConfigProblem(BaseModel):
    """One error or warning of the file. `line` counts from 1; null where the file cannot be read."""

    file: str
    line: int | None
    path: str
    message: str
    severity: Literal["error", "warning"]


class ReloadAnswer(BaseModel):
    """`version` is in force now. `changed` is false when it was already."""

    version: str
    previous: str
    changed: bool
    warnings: list[ConfigProblem]


class ReloadRefusal(Exception):
    """Nothing has changed, and `version` goes on serving.

    `problems` are the file's errors; `settings` are those that differ and only change with a restart.
    `is_passing`: the file is right, and a later reload may bring it into force.
    """

    def __init__(
        self, version: str, problems: list[ConfigProblem], settings: list[str], *, is_passing: bool = False
    ) -> None:
        super().__init__(version)
        self.is_passing = is_passing
        self.version = version
        self.problems = problems
        self.settings = settings


def reload_router(reload: Callable[[], Awaitable[ReloadAnswer]]) -> APIRouter:
    """`reload` raises ReloadRefusal."""
    router = APIRouter()

    @router.post(
        "/admin/v1/reload",
        summary="Read the configuration file again and bring it into force, whole or not at all",
        response_model=ReloadAnswer,
        responses={
            409: {"description": "Settings differ that only a restart can change: `settings` names them"},
            503: {
                "description": "The file is right, but the ledger that its new budgets need is unavailable"
            },
            422: {"description": "The file has errors: `problems` lists them; the version before serves on"},
        },
    )
    async def post_reload() -> Response | ReloadAnswer:
        try:
            return await reload()
        except ReloadRefusal as refusal:
            return _refused(refusal)

    return router


def _refused(refusal: ReloadRefusal) -> Response:
    error = _error(refusal)
    body = orjson.loads(envelope(error)) | {
        "version": refusal.version,
        "problems": [problem.model_dump() for problem in refusal.problems],
        "settings": refusal.settings,
    }
    headers = {name.decode(): value.decode() for name, value in retry_headers(error)}
    content = orjson.dumps(body)
    return Response(content, status_code=error.status, media_type="application/json", headers=headers)


def _error(refusal: ReloadRefusal) -> GatewayError:
    serving = f"Version {refusal.version} goes on serving."
    if refusal.is_passing:
        why = "; ".join(f"{problem.file}: {problem.message}" for problem in refusal.problems)
        return Unavailable(f"{serving} {why}.", retry_after_seconds=RETRY_SECONDS)
    if refusal.settings:
        named = ", ".join(refusal.settings)
        error = InvalidRequest(
            f"Only a restart can change {named}. {serving} Take those changes back, or restart.",
            code="restart_required",
        )
        error.status = 409
    else:
        error = InvalidRequest(
            f"The configuration file has {len(refusal.problems)} error(s), listed in 'problems'. {serving}",
            code="invalid_configuration",
        )
        error.status = 422
    return error
