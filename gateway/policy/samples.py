"""Sample requests of a file or a command line, put as questions to the engine that explains decisions."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from gateway.config.build import Built
from gateway.config.tenancy import SampleRequest
from gateway.core.balancing import Fleet
from gateway.core.call import BYTES_PER_TOKEN, Call
from gateway.core.catalog import Api, Capability, Modality
from gateway.core.facts import Moment
from gateway.core.media import Media
from gateway.core.parse import Body
from gateway.core.route import Routes
from gateway.core.tenancy import Principal
from gateway.policy.explain import PRIVACY_HEADER, DecisionQuestion, Explainer, Explanation
from gateway.privacy.vocabularies import Vocabularies
from gateway.proxy.classify import Classifier


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a decision depends on beside the request. `now` in UTC seconds; None: the present.

    `prompt_tokens` is what every tokenizer is taken to count; None: the text says.
    """

    now: float | None = None
    budget_used: float = 0.0
    outstanding: Mapping[str, int] | None = None
    down: tuple[str, ...] = ()
    prompt_tokens: int | None = None


async def explain(built: Built, question: DecisionQuestion, given: Circumstances) -> Explanation:
    """The decision on `question` under `built`, with replicas as `given` and idle otherwise."""
    routes = Routes(built.policy, _fleet(built, given), zone=built.tenancy.time_zone)
    explainer = Explainer(routes, Classifier(built.policy, built.screenings, Vocabularies()), built.tenancy)
    return await explainer.explain(question, _moment(given, built))


async def explain_sample(built: Built, sample: SampleRequest) -> Explanation:
    """The decision on a request as `policy_tests` write it."""
    return await explain(built, question_of(sample), circumstances_of(sample, built))


def circumstances_of(sample: SampleRequest, built: Built) -> Circumstances:
    at = sample.at
    return Circumstances(
        now=None if at is None else at.replace(tzinfo=built.tenancy.time_zone).timestamp(),
        budget_used=float(sample.budget_used),
        outstanding=sample.outstanding,
        down=sample.down,
        prompt_tokens=sample.prompt_tokens,
    )


def question_of(sample: SampleRequest) -> DecisionQuestion:
    headers = {PRIVACY_HEADER: sample.privacy, "x-tollway-session": sample.session}
    return DecisionQuestion(
        call=_call(sample),
        body=_body(sample),
        key=sample.key,
        feature=sample.feature,
        headers={name: value for name, value in headers.items() if value is not None},
    )


def _body(sample: SampleRequest) -> Body:
    return {"messages": _messages(sample), "user": sample.user}


def _messages(sample: SampleRequest) -> list[dict[str, str]]:
    return [{"role": "user", "content": sample.text or "sample"}]


def _call(sample: SampleRequest) -> Call:
    rest = orjson.dumps({"messages": _messages(sample)})
    text_bytes = len(rest)
    if sample.prompt_tokens is not None:
        # Only its length is known then: that of the longest text that counts as so many tokens.
        rest, text_bytes = b"{}", sample.prompt_tokens * BYTES_PER_TOKEN - 1
    return Call(
        api=Api.CHAT,
        model=sample.model,
        stream=sample.stream,
        include_usage=False,
        stream_options={},
        max_output=sample.max_output_tokens,
        choices=1,
        modalities=frozenset({Modality.TEXT, *map(Modality, sample.modalities)}),
        needs=frozenset(map(Capability, sample.needs)),
        media=Media(),
        service_tier=None,
        tags=dict(sample.tags),
        rest=rest,
        text_bytes=text_bytes,
        user=sample.user or None,
    )


def _fleet(built: Built, given: Circumstances) -> Fleet:
    fleet = Fleet(built.policy.deployments.values())
    for name, count in (given.outstanding or {}).items():
        replicas = fleet.replica_sets[name].replicas if name in fleet.replica_sets else ()
        for index, state in enumerate(replicas):
            state.in_flight = (count + index) // len(replicas)
    for name in given.down:
        for state in fleet.replica_sets[name].replicas if name in fleet.replica_sets else ():
            state.is_up = False
    return fleet


def _moment(given: Circumstances, built: Built) -> Callable[[Principal], Moment]:
    now, tokens = time.time() if given.now is None else given.now, given.prompt_tokens
    counted = None if tokens is None else dict.fromkeys(built.policy.deployments, tokens)
    return lambda _: Moment(now, time.monotonic(), budget_used=given.budget_used, counted=counted)
