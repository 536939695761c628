"""What is kept of a request so that another policy can be tried on it: sizes and circumstances, no words."""

from collections.abc import Mapping

import msgspec

from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.catalog import Modality
from gateway.core.causes import Detected, MediaContent
from gateway.core.record import MOST, RecordedFacts
from gateway.core.screening import Classified, Raise
from tests.core.builders import chat, deployment, held, local, model, moment, parsed, route_to, routes
from tests.core.halves import record_of

SECRET = "the merger closes on Friday"


def facts(
    call: Call,
    fleet: Fleet,
    *raised_by: Raise,
    random: float = 0.123456789,
    budget_used: float = 1 / 3,
    headers: Mapping[bytes, bytes] | None = None,
) -> RecordedFacts:
    """What the row of `call` keeps, which goes to the first deployment of `fleet`."""
    item = model(*(replica_set.deployment for replica_set in fleet.replica_sets.values()))
    at = moment(random=random, budget_used=budget_used, headers=headers)
    route = route_to(item, routes(item, fleet=fleet), now=at.now)
    sent = held(route.begin("r", call, Classified("internal", raised_by), at))
    return record_of(sent.half(), None).facts


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
    assert (
        facts(parsed(chat(max_tokens=2**63)), Fleet([deployment(max_output_tokens=2**64)])).max_output == MOST
    )


def test_what_asked_for_the_class_is_kept_by_its_name_and_media_are_told_by_the_row_itself() -> None:
    raised_by = (
        Raise(Detected("iban"), "confidential"),
        Raise(Detected("email"), "confidential"),
        Raise(MediaContent(Modality.IMAGE), "confidential"),
    )
    kept = facts(
        parsed(chat()), Fleet([deployment()]), *raised_by, headers={b"x-tollway-privacy": b"internal"}
    )
    assert (kept.finds, kept.named) == ("email,iban", "internal")


def test_a_session_or_a_user_is_kept_as_a_short_digest_that_differs_by_key() -> None:
    fleet = Fleet([deployment()])
    of_session = facts(parsed(chat()), fleet, headers={b"x-tollway-session": b"s-1"}).unit
    of_user = facts(parsed(chat(user="ann@example.com")), fleet).unit
    assert of_session is not None
    assert of_user is not None
    assert len({of_session, of_user, None}) == 3
    assert len(of_session) == len(of_user) == 10
    assert facts(parsed(chat()), fleet).unit is None
