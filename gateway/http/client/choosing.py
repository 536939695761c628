"""Takes the client that an endpoint needs: aiohttp speaks through forward proxies, the lean one not."""

from collections.abc import Callable

from gateway.core.endpoint import Endpoint
from gateway.ports import Upstream, UpstreamRequest, UpstreamResponse


class ChoosingUpstream:
    """Implements `Upstream` by two others. `make_proxied` is called at the first proxied endpoint."""

    def __init__(self, direct: Upstream, make_proxied: Callable[[], Upstream]) -> None:
        self._direct = direct
        self._make_proxied = make_proxied
        self._proxied: Upstream | None = None

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        return await self._for(request.endpoint).send(request)

    async def close(self) -> None:
        await self._direct.close()
        if self._proxied is not None:
            await self._proxied.close()

    def _for(self, endpoint: Endpoint) -> Upstream:
        if endpoint.proxy is None:
            return self._direct
        if self._proxied is None:
            self._proxied = self._make_proxied()
        return self._proxied
