"""Classify: the privacy class of a request. Callers and detectors can raise it, nothing can lower it."""

import asyncio

from gateway.core.call import Call
from gateway.core.detect import Detectors, find_text
from gateway.core.errors import InvalidRequest
from gateway.core.policy import Policy
from gateway.core.tenancy import Principal

# Scanning this much text takes about as long as forwarding a request; beyond it the loop would feel it.
INLINE_BYTES = 64 * 1024


class Classifier:
    """The privacy class of requests under one policy."""

    def __init__(self, policy: Policy, detectors: Detectors | None) -> None:
        """`detectors` None: the policy looks for nothing."""
        self._policy = policy
        self._detectors = detectors

    async def classify(self, call: Call, principal: Principal, named: str | None) -> str:
        """The most sensitive of the key's and feature's floor, the caller's header, and what was detected.

        `named` is the `x-tollway-privacy` header. Raises InvalidRequest when it names no class.
        """
        policy = self._policy
        privacy = principal.floor
        if named is not None:
            if named not in policy.classes:
                raise InvalidRequest(
                    f"Unknown privacy class in x-tollway-privacy. Known: {', '.join(policy.classes)}.",
                    param="x-tollway-privacy",
                )
            privacy = policy.most_sensitive(privacy, named)
        if self._detectors is None or privacy == policy.classes[-1]:
            return privacy
        if call.text_bytes <= INLINE_BYTES:
            detected = self._detect(call, self._detectors)
        else:
            detected = await asyncio.to_thread(self._detect, call, self._detectors)
        return policy.most_sensitive(privacy, *detected) if detected else privacy

    def _detect(self, call: Call, detectors: Detectors) -> list[str]:
        """The classes that the text of `call` asks for."""
        text = find_text(call.body)
        if text.unreadable:
            # Token ids hide the text from every detector, so nothing can be ruled out.
            return [self._policy.classes[-1]]
        return [self._policy.raise_to[name] for name in detectors.scan(text.pieces)]
