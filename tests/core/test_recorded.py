"""What is kept of a request so that another policy can be tried on it: sizes and circumstances, no words."""

from typing import Any

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import Modality
from gateway.core.causes import Detected, MediaContent
from gateway.core.facts import MOST, RecordedFacts, recorded_facts
from gateway.core.screening import Classified, Raise
from tests.core.builders import chat, deployment, local, moment, parsed, principal

SECRET = "the merger closes on Friday"


def facts(call: Call, fleet: Fleet, *raised_by: Raise, named: str | None = None, **at: Any) -> RecordedFacts:
    now = msgspec.structs.replace(moment(random=0.123456789, budget_used=1 / 3), **at)
    return recorded_facts(call, principal(), Classified("internal", raised_by), named, now, fleet)


def test_nothing_of_the_prompt_is_kept_but_its_size() -> None:
    call = parsed(chat(SECRET, tools=[{"type": "function", "function": {"name": SECRET}}], n=2))
    kept = facts(call, Fleet([deployment()]))
    assert SECRET.encode() not in msgspec.json.encode(kept)
    assert (kept.text_bytes, kept.needs, kept.choices) == (call.text_bytes, "n,tools", 2)


def test_an_ordinary_request_takes_few_bytes() -> None:
    kept = facts(parsed(chat()), Fleet([deployment(), local()]))
    assert (
        msgspec.json.encode(kept) == b'{"text_bytes":%d,"draw":0.123457,"budget":0.333333}' % kept.text_bytes
    )


def test_what_is_kept_reads_back_as_it_was() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    fleet = Fleet([local(replicas=3)])
    fleet.replica_sets["llama"].replicas[0].in_flight = 1
    kept = facts(parsed(chat([image], max_tokens=7)), fleet)
    assert (kept.media.images_low, kept.max_output, kept.pools) == (1, 7, {"llama": (1, 3, 3)})
    assert msgspec.json.decode(msgspec.json.encode(kept), type=RecordedFacts) == kept


def test_a_pool_that_is_idle_and_whole_is_left_out_and_one_that_is_down_is_not() -> None:
    fleet = Fleet([local(replicas=2), deployment()])
    fleet.replica_sets["llama"].replicas[0].is_up = False
    assert facts(parsed(chat()), fleet).pools == {"llama": (0, 1, 2)}


def test_a_cap_of_any_size_fits_into_the_row() -> None:
    assert facts(parsed(chat(max_tokens=2**63)), Fleet([deployment()])).max_output == MOST


def test_what_asked_for_the_class_is_kept_by_its_name_and_media_are_told_by_the_row_itself() -> None:
    raised_by = (
        Raise(Detected("iban"), "confidential"),
        Raise(Detected("email"), "confidential"),
        Raise(MediaContent(Modality.IMAGE), "confidential"),
    )
    kept = facts(parsed(chat()), Fleet([deployment()]), *raised_by, named="internal")
    assert (kept.finds, kept.named) == ("email,iban", "internal")


def test_a_session_or_a_user_is_kept_as_a_short_digest_that_differs_by_key() -> None:
    fleet = Fleet([deployment()])
    named = {b"x-tollway-session": "s-1"}
    of_session = facts(parsed(chat()), fleet, header=named.get).unit
    of_user = facts(parsed(chat(user="ann@example.com")), fleet).unit
    assert of_session is not None
    assert of_user is not None
    assert len({of_session, of_user, None}) == 3
    assert len(of_session) == len(of_user) == 10
    assert facts(parsed(chat()), fleet).unit is None
