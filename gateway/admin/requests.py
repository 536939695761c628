"""`GET /admin/v1/requests/{request_id}`: what became of one request."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Path, Response

RequestId = Annotated[
    str, Path(max_length=512, description="the `x-request-id` of its answer, or the id of an attempt")
]


def requests_router(find: Callable[[str], Awaitable[bytes]]) -> APIRouter:
    """`find` gives the JSON that `tollway requests show` prints, and raises GatewayError."""
    router = APIRouter()

    @router.get(
        "/admin/v1/requests/{request_id}",
        summary="One request: its attempts with decision, usage, cost and times, or why it was refused",
        response_class=Response,
        responses={
            200: {
                "content": {"application/json": {}},
                "description": "As `tollway requests show --format json` prints it",
            },
            404: {"description": "Nothing is known of this id"},
            503: {"description": "The ledger is unavailable"},
        },
    )
    async def get_request(request_id: RequestId) -> Response:
        return Response(await find(request_id), media_type="application/json")

    return router
