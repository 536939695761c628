"""What is kept of a request so that another policy can be tried on it: sizes and circumstances, no words."""

import msgspec

from core.builders import chat, deployment, local, parsed
from gateway.core.balancing import Fleet
from gateway.core.call import Call
from gateway.core.recorded import MOST, RecordedFacts, recorded_facts

SECRET = "the merger closes on Friday"


def facts(call: Call, fleet: Fleet) -> RecordedFacts:
    return recorded_facts(call, fleet, raised=False, monotonic=1000.0, draw=0.123456789, budget=1 / 3)


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
    fleet.pools["llama"].take(1000.0)
    kept = facts(parsed(chat([image], max_tokens=7)), fleet)
    assert (kept.media.images_low, kept.max_output, kept.pools) == (1, 7, {"llama": (1, 3, 3)})
    assert msgspec.json.decode(msgspec.json.encode(kept), type=RecordedFacts) == kept


def test_a_pool_that_is_idle_and_whole_is_left_out_and_one_that_is_down_is_not() -> None:
    fleet = Fleet([local(replicas=2), deployment()])
    fleet.pools["llama"].replicas[0].is_up = False
    assert facts(parsed(chat()), fleet).pools == {"llama": (0, 1, 2)}


def test_a_cap_of_any_size_fits_into_the_row() -> None:
    assert facts(parsed(chat(max_tokens=2**63)), Fleet([deployment()])).max_output == MOST
