"""Reads one body in the process for large ones: the functions are those of small bodies, called in a row."""

import traceback

import msgspec

from gateway.core.catalog import Api
from gateway.core.errors import InvalidRequest
from gateway.core.json_bounds import check_values
from gateway.core.parse import parse_call
from gateway.core.remote_images import wanted_images, with_images
from gateway.core.screening import Classified, Screenings, needs_entity_stage, screen, text_for_entities
from gateway.core.text_size import size_of
from gateway.detect.token_ids import Vocabulary, holds_token_ids, with_text
from gateway.dialects.outgoing import adapted
from gateway.privacy.stage import MOST_TEXT_CHARACTERS
from gateway.privacy.vocabularies import load_or_log
from gateway.proxy.large_bodies.messages import (
    AdaptQuestion,
    BodyDefect,
    BodyFacts,
    BodyQuestion,
    BodyRefused,
    ReadingRules,
    Told,
)


class LargeBodyReading:
    """Reads bodies under one set of rules."""

    def __init__(self, rules: ReadingRules, screenings: Screenings) -> None:
        self._rules = rules
        self._screenings = screenings
        self._vocabularies: dict[str, Vocabulary | None] = {}

    def read(self, question: BodyQuestion, raw: bytes) -> tuple[Told, bytes]:
        """What there is to tell of `raw`, and what goes upstream in its place. Raises nothing."""
        try:
            facts, rest = self._read(question, raw)
        except InvalidRequest as error:
            return Told(refused=BodyRefused(error.message, error.param, error.code)), b""
        except Exception as exc:
            # Lines of code only: the error's own text could hold the prompt.
            frames = tuple(traceback.format_tb(exc.__traceback__))
            return Told(defect=BodyDefect(type(exc).__name__, frames)), b""
        return Told(facts=facts), rest

    def _read(self, question: BodyQuestion, raw: bytes) -> tuple[BodyFacts, bytes]:
        rules = self._rules
        check_values(raw, rules.max_values)
        call, body = parse_call(question.api, raw, rules.max_messages, question.addressed)
        wanted: list[tuple[str, str]] = []
        if call.media.is_remote and rules.image_hosts is not None:
            if question.images is None:
                wanted = wanted_images(body, rules.image_hosts, rules.max_images)
            elif question.images:
                call, body = with_images(call, body, question.images)
        screening = self._screenings.of(question.feature)
        if wanted:
            screening = screening.without_images()
        if call.api is not Api.CHAT and holds_token_ids(body):
            vocabulary = self._vocabulary(rules.tokenizers.get(call.model, {}).get(call.api))
            body = body if vocabulary is None else with_text(body, vocabulary)
        classified = screen(call, body, screening, question.floor)
        text = None
        if screening.entities is not None and needs_entity_stage(classified, screening):
            # One more than the stage reads, which then says that it is too long.
            text = text_for_entities(body, classified)[: MOST_TEXT_CHARACTERS + 1]
        rest = call.rest
        facts = BodyFacts(
            msgspec.structs.replace(call, rest=b""),
            size_of(call),
            _without_body(classified),
            text,
            tuple(wanted),
        )
        return facts, rest

    def _vocabulary(self, tokenizer: str | None) -> Vocabulary | None:
        if tokenizer is None:
            return None
        if tokenizer not in self._vocabularies:
            self._vocabularies[tokenizer] = load_or_log(tokenizer)
        return self._vocabularies[tokenizer]


def adapt(question: AdaptQuestion, rest: bytes) -> tuple[Told, bytes]:
    """`rest` as a dialect has it."""
    found, changed = adapted(rest, question.members, question.dialect)
    return Told(changed=changed), found


def _without_body(classified: Classified) -> Classified:
    """Its masked body was looked through here; what is sent of it is its JSON."""
    stand_in = classified.stand_in
    if stand_in is None:
        return classified
    masked = msgspec.structs.replace(stand_in.masked, body={})
    return msgspec.structs.replace(classified, stand_in=msgspec.structs.replace(stand_in, masked=masked))
