"""Classify: the privacy class of a request. Callers and detectors can raise it, nothing can lower it."""

import asyncio
from collections.abc import Mapping, Sequence

from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.causes import EntityResult
from gateway.core.errors import InvalidRequest
from gateway.core.parse import Body
from gateway.core.policy import Policy, tokenizer_of
from gateway.core.screening import (
    Classified,
    Screenings,
    needs_entity_stage,
    screen,
    text_for_entities,
    with_entities,
)
from gateway.core.tenancy import Principal
from gateway.detect.token_ids import holds_token_ids, with_text
from gateway.ports import EntityFinder
from gateway.privacy.vocabularies import Vocabularies
from gateway.proxy.large_bodies.messages import BodyQuestion, LargeBody

# Scanning this much text takes about as long as forwarding a request; beyond it the loop would feel it.
INLINE_BYTES = 64 * 1024
# Masking finds where each value stands, and looks through the result once more.
INLINE_MASKED_BYTES = 8 * 1024
# Token ids are read one by one.
INLINE_TOKEN_BYTES = 16 * 1024

_CHAT = Api.CHAT
PRIVACY = b"x-tollway-privacy"


class Classifier:
    """The privacy class of requests under one policy."""

    def __init__(
        self,
        policy: Policy,
        screenings: Screenings,
        vocabularies: Vocabularies,
        entities: EntityFinder | None = None,
    ) -> None:
        """Without `entities` there is no second stage, whatever the screenings ask for."""
        self._policy = policy
        self._screenings = screenings
        self._vocabularies = vocabularies
        self._entities = entities

    def question(
        self, api: Api, addressed: str | None, principal: Principal, headers: Mapping[bytes, bytes]
    ) -> BodyQuestion:
        """How a large body is to be read and classified. Raises InvalidRequest as `classify` does."""
        return BodyQuestion(api, addressed, principal.feature, self._floor(principal, headers))

    async def classify(
        self,
        call: Call,
        body: Body | LargeBody,
        principal: Principal,
        headers: Mapping[bytes, bytes],
        without_images: bool = False,
    ) -> Classified:
        """The most sensitive of the key's and feature's floor, the caller's header, and what was found.

        `without_images`: as if images counted for nothing. Raises InvalidRequest when the header
        `x-tollway-privacy` names no class.
        """
        screening = self._screenings.by_feature.get(principal.feature, self._screenings.standard)
        if without_images:
            screening = screening.without_images()
        if isinstance(body, LargeBody):
            classified = body.classified  # by the same functions, as `question` asked
        else:
            floor = self._floor(principal, headers) if PRIVACY in headers else principal.floor
            if call.api is not _CHAT and holds_token_ids(body):
                body = await self._with_text(call, body)
            if len(call.rest) <= (INLINE_BYTES if screening.masking is None else INLINE_MASKED_BYTES):
                classified = screen(call, body, screening, floor)
            else:
                classified = await asyncio.to_thread(screen, call, body, screening, floor)
        if (
            self._entities is None
            or screening.entities is None
            or not needs_entity_stage(classified, screening)
        ):
            return classified
        text = body.text if isinstance(body, LargeBody) else text_for_entities(body, classified)
        result = await self._entities.find(text or "")
        return classified if result is EntityResult.CLEAR else with_entities(classified, screening, result)

    def finds_in(self, texts: Sequence[str], principal: Principal) -> bool:
        """Whether a detector of the principal's feature finds something in one of a few short texts."""
        detectors = self._screenings.of(principal.feature).detectors
        return detectors is not None and any(detectors.scan([text]) for text in texts)

    async def _with_text(self, call: Call, body: Body) -> Body:
        """`body` with text in place of token ids, where their tokenizer is known."""
        vocabulary = await self._vocabularies.of(tokenizer_of(self._policy, call.model, call.api))
        if vocabulary is None:
            return body
        if call.text_bytes <= INLINE_TOKEN_BYTES:
            return with_text(body, vocabulary)
        return await asyncio.to_thread(with_text, body, vocabulary)

    def _floor(self, principal: Principal, headers: Mapping[bytes, bytes]) -> str:
        named = headers.get(PRIVACY)
        return principal.floor if named is None else self._raised(principal.floor, named.decode("latin-1"))

    def _raised(self, floor: str, named: str) -> str:
        policy = self._policy
        if named not in policy.classes:
            raise InvalidRequest(
                f"Unknown privacy class in x-tollway-privacy. Known: {', '.join(policy.classes)}.",
                param="x-tollway-privacy",
            )
        return policy.most_sensitive(floor, named)
