"""Inline: images that a request names by their address are fetched, and go upstream as content."""

import asyncio
from collections.abc import Mapping, Sequence

from gateway.core.call import Call
from gateway.core.errors import InvalidRequest
from gateway.core.parse import Body
from gateway.core.policy import Policy
from gateway.core.remote_images import ImageRules, wanted_images, with_images
from gateway.core.tenancy import Principal
from gateway.privacy.images import ImageFetcher, ImageNotFetched
from gateway.proxy.classify import Classifier
from gateway.proxy.large_bodies.messages import LargeBody


class ImageInliner:
    """Fetches under one policy. An address that may not be asked stays: then the plan decides on it."""

    def __init__(
        self, policy: Policy, rules: ImageRules, classifier: Classifier, fetcher: ImageFetcher
    ) -> None:
        self._policy = policy
        self._rules = rules
        self._classifier = classifier
        self._fetcher = fetcher

    async def inline(
        self, call: Call, body: Body | LargeBody, principal: Principal, headers: Mapping[bytes, bytes]
    ) -> tuple[Call, Body | LargeBody]:
        """`call` and `body` with the images of allowed hosts in them.

        Asking for an image sends a part of the request to `rules.zone`. So its class without the images has
        to reach that zone, and no detector may find anything in the address itself. Raises InvalidRequest
        when an image cannot be had in time, is too large, or is none.
        """
        rules = self._rules
        if isinstance(body, LargeBody):
            wanted: Sequence[tuple[str, str]] = body.wanted
        else:
            wanted = wanted_images(body, rules.hosts, rules.max_images)
        if not wanted:
            return call, body
        images: Mapping[str, str] = {}
        if await self._may_ask(call, body, principal, headers, [url for _, url in wanted]):
            if len(wanted) > rules.max_images:
                raise _refused(wanted[-1][0], f"a request may name at most {rules.max_images} images")
            images = await self._fetched(wanted)
        if isinstance(body, LargeBody):
            return await body.again(images)
        return with_images(call, body, images) if images else (call, body)

    async def _may_ask(
        self,
        call: Call,
        body: Body | LargeBody,
        principal: Principal,
        headers: Mapping[bytes, bytes],
        urls: list[str],
    ) -> bool:
        if self._classifier.finds_in(urls, principal):
            return False
        found = await self._classifier.classify(call, body, principal, headers, without_images=True)
        return self._rules.zone in self._policy.zones[found.privacy]

    async def _fetched(self, wanted: Sequence[tuple[str, str]]) -> dict[str, str]:
        """One after the other: then the bound on bytes is one on memory too."""
        images: dict[str, str] = {}
        left = self._rules.max_bytes
        try:
            async with asyncio.timeout(self._rules.deadline_seconds):
                for where, url in wanted:
                    if url not in images:
                        images[url] = image = await self._fetch(where, url, left)
                        left -= len(image) * 3 // 4
        except TimeoutError as exc:
            late = next(where for where, url in wanted if url not in images)
            raise _refused(late, f"it took longer than {self._rules.deadline_seconds:g} s") from exc
        return images

    async def _fetch(self, where: str, url: str, max_bytes: int) -> str:
        try:
            return await self._fetcher.fetch(url, self._rules, max_bytes)
        except ImageNotFetched as exc:
            raise _refused(where, str(exc)) from exc


def _refused(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The image of '{where}' was not fetched: {why}. Send its content, as a data: URL.",
        param=where,
        code="invalid_image_url",
    )
