"""`GET /admin/v1/usage`: what `tollway usage` prints, for programs."""

import enum
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.core import calendar


class UsageForm(enum.StrEnum):
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {
    UsageForm.JSON: "application/json",
    UsageForm.CSV: "text/csv; charset=utf-8",
    UsageForm.PARQUET: "application/vnd.apache.parquet",
}


class UsageQuery(BaseModel):
    """The query of a request. Moments without a zone are local times of the org."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    by: str = Field(
        default="feature", description="one or several dimensions with commas between, as feature,deployment"
    )
    period: str | None = Field(default=None, description=f"{calendar.NAMES}; or as {calendar.EXAMPLES}")
    since: str | None = Field(default=None, description=f"from this moment on: {calendar.MOMENTS}")
    until: str | None = Field(default=None, description="to before this moment")
    form: UsageForm = Field(default=UsageForm.JSON, alias="format")


def usage_router(usage: Callable[[UsageQuery], Awaitable[bytes]]) -> APIRouter:
    """`usage` gives the report as bytes, and raises GatewayError."""
    router = APIRouter()

    @router.get(
        "/admin/v1/usage",
        summary="Requests, tokens and cost by any dimensions of the ledger, for any period",
        response_class=Response,
        responses={
            200: {
                "content": {form: {} for form in MEDIA_TYPES.values()},
                "description": "A list of rows, as `tollway usage --format json` prints it",
            },
            400: {"description": "No such dimension or period, or its rows were deleted"},
            503: {"description": "The ledger is unavailable"},
        },
    )
    async def get_usage(query: Annotated[UsageQuery, Query()]) -> Response:
        return Response(await usage(query), media_type=MEDIA_TYPES[query.form])

    return router
