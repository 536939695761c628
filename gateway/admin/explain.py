"""`POST /admin/v1/policy/explain`: how a request would be decided now, and why."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.core.catalog import Api
from gateway.core.parse import parse_call
from gateway.policy.explain import DecisionQuestion, Explanation

Explain = Callable[[DecisionQuestion], Awaitable[Explanation]]


class ExplainRequest(BaseModel):
    """A request as a client would send it: `request` is its body, `headers` its headers."""

    model_config = ConfigDict(extra="forbid")

    request: dict[str, Any] = Field(description="body of the request")
    api: Api = Field(default=Api.CHAT, description="endpoint that it is sent to")
    key: str | None = Field(
        default=None, description="name of the key that asks; left out: none in particular"
    )
    feature: str | None = Field(default=None, description="feature that is charged")
    headers: dict[str, str] = Field(default={}, description="such as x-tollway-privacy")


def explain_router(explain: Explain, max_messages: Callable[[], int]) -> APIRouter:
    """Nothing is sent, held or recorded: the policy in force and the replicas as they are give the answer."""
    router = APIRouter()

    @router.post(
        "/admin/v1/policy/explain",
        summary="How a request would be decided now: class, candidates with reasons and lines, order",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}, "description": "The decision"}},
    )
    async def post_explain(request: ExplainRequest) -> Response:
        call, body = parse_call(request.api, orjson.dumps(request.request), max_messages())
        question = DecisionQuestion(
            call=call,
            body=body,
            key=request.key,
            feature=request.feature,
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        found = await explain(question)
        return Response(msgspec.json.encode(found), media_type="application/json")

    return router
