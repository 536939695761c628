"""`GET /admin/v1/tco`: hosted models against own GPUs for the traffic of a period."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Response

from gateway.core import calendar


class TcoQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """As the options of `tollway tco`; times as text, None is open."""

    period: str | None
    since: str | None
    until: str | None
    by: str
    what_if: str


Answer = Callable[[TcoQuestion], Awaitable[bytes]]

Named = Annotated[str | None, Query(description=f"{calendar.NAMES}; or as {calendar.EXAMPLES}")]
Since = Annotated[str | None, Query(description=f"in the org's time zone: {calendar.MOMENTS}")]
Until = Annotated[str | None, Query(description="to before this; left out: now")]
Dimension = Annotated[Literal["feature", "team", "model"], Query(description="what the rows are")]
WhatIf = Annotated[
    str, Query(description="such as usd_per_gpu_hour=2.5,replicas=3,gpt4o.output=8,share.local=0.7")
]


def tco_router(answer: Answer) -> APIRouter:
    """`answer` gives the JSON of docs/tco.md, and raises InvalidRequest for what it cannot read."""
    router = APIRouter()

    @router.get(
        "/admin/v1/tco",
        summary="What traffic cost on either side, what it would have, and where they meet",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}, "description": "The comparison"}},
    )
    async def get_tco(
        period: Named = None,
        since: Since = None,
        until: Until = None,
        by: Dimension = "feature",
        what_if: WhatIf = "",
    ) -> Response:
        question = TcoQuestion(period=period, since=since, until=until, by=by, what_if=what_if)
        return Response(await answer(question), media_type="application/json")

    return router
