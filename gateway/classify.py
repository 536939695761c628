"""Classify: the privacy class of a request. Callers and detectors can raise it, nothing can lower it."""

import asyncio

from gateway.core.call import Call
from gateway.core.errors import InvalidRequest
from gateway.core.policy import Policy
from gateway.core.screening import Classified, Screenings, screen
from gateway.core.tenancy import Principal

# Scanning this much text takes about as long as forwarding a request; beyond it the loop would feel it.
INLINE_BYTES = 64 * 1024


class Classifier:
    """The privacy class of requests under one policy."""

    def __init__(self, policy: Policy, screenings: Screenings) -> None:
        self._policy = policy
        self._screenings = screenings

    async def classify(self, call: Call, principal: Principal, named: str | None) -> Classified:
        """The most sensitive of the key's and feature's floor, the caller's header, and what was found.

        `named` is the `x-tollway-privacy` header. Raises InvalidRequest when it names no class.
        """
        floor = principal.floor if named is None else self._raised(principal.floor, named)
        screening = self._screenings.of(principal.feature)
        if call.text_bytes <= INLINE_BYTES:
            return screen(call, screening, floor)
        return await asyncio.to_thread(screen, call, screening, floor)

    def _raised(self, floor: str, named: str) -> str:
        policy = self._policy
        if named not in policy.classes:
            raise InvalidRequest(
                f"Unknown privacy class in x-tollway-privacy. Known: {', '.join(policy.classes)}.",
                param="x-tollway-privacy",
            )
        return policy.most_sensitive(floor, named)
