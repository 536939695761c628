"""What the ledger knows about a period: tokens, bills, timings and tokenizers."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from zoneinfo import ZoneInfo

import msgspec

from gateway.core.catalog import Api, Deployment
from gateway.core.media import NO_MEDIA
from gateway.core.pool_cost import PoolTerms, Weights
from gateway.core.pricing import PriceBook
from gateway.core.rates import Rates
from gateway.core.record import RecordedFacts
from gateway.core.text_size import LEARN_FROM_TOKENS
from gateway.finance.tco.sources import TcoSources
from gateway.ledger.past_attempts import PastAnswer, PastAttempts
from gateway.ledger.pool_costs import PoolSums, pool_sums
from gateway.ledger.price_versions import read_prices
from gateway.ledger.spans import Span
from gateway.ledger.url import database_of
from gateway.ledger.usage_sums import Consumer, UsageSums, sum_late_corrections, sum_usage

# Fewer answers say too little.
LEAST_PROMPTS = 20
LEAST_STREAMS = 100

_decode_facts = msgspec.json.Decoder(RecordedFacts).decode


class TokenizerRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of text for a token, over the prompts of text alone: the median, and a tenth below and above."""

    bytes_per_token: float
    low: float
    high: float
    prompts: int


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of the latest whole answers. Speeds are those of streams."""

    answers: int
    ttft_ms_median: float | None
    ttft_ms_p95: float | None
    tokens_per_second_median: float | None


class PriceSegment(msgspec.Struct, frozen=True):
    """A part of the period in which no price of a hosted deployment changed."""

    rates: Mapping[str, Rates]
    usage: Mapping[Consumer, UsageSums]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A period as the ledger has it. `hosted` and `pools` are the deployments on either side.

    `late_corrections_nano`: what is booked in it and corrects hosted costs of periods closed by then.
    """

    since: int
    until: int
    time_zone: ZoneInfo
    hosted: tuple[str, ...]
    pools: Mapping[str, PoolTerms]
    weights_are_learned: Mapping[str, bool]
    segments: Sequence[PriceSegment]
    bills: Mapping[str, PoolSums]
    tokenizers: Mapping[str, TokenizerRatio]
    latencies: Mapping[str, Latency]
    late_corrections_nano: int = 0

    def ratio(self, source: str, target: str) -> Fraction:
        """Tokens of `target` for one of `source`; 1 where one of them is not measured."""
        one, other = self.tokenizers.get(source), self.tokenizers.get(target)
        if source == target or one is None or other is None:
            return Fraction(1)
        return Fraction(one.bytes_per_token) / Fraction(other.bytes_per_token)


def measure(sources: TcoSources, span: Span, now: int) -> Measured:
    """Everything that a comparison needs. Raises LedgerUnavailable."""
    url = sources.ledger_url
    book = read_prices(url)
    pools = {one.plan.deployment: one for one in sources.pools}
    hosted = [one for one in sources.deployments if one.name not in pools and Api.CHAT in one.serves]
    with database_of(url).reading() as ledger:
        bills = pool_sums(ledger, span)
        if (
            span.since is None and bills
        ):  # what was served before the first bill has nothing to be set against
            span = Span(min(one.starts for one in bills.values()), span.until)
        since = now if span.since is None else span.since
        until = now if span.until is None else span.until
        cuts = [since, *_changes(book, hosted, since, until), until]
        segments = [
            PriceSegment(
                {one.name: book.price_of(one, begins).standard for one in hosted},
                sum_usage(ledger, Span(span.since if index == 0 else begins, ends)),
            )
            for index, (begins, ends) in enumerate(itertools.pairwise(cuts))
        ]
        late = sum_late_corrections(ledger, span)
        observed = PastAttempts(ledger, span).latest()
    terms = {name: learned(one, observed) for name, one in pools.items()}
    return Measured(
        since=since,
        until=until,
        time_zone=sources.time_zone,
        hosted=tuple(one.name for one in hosted),
        pools={name: found for name, (found, _) in terms.items()},
        weights_are_learned={name: learned for name, (_, learned) in terms.items()},
        segments=segments,
        bills={name: one for name, one in bills.items() if name in pools},
        # What budgets were charged for a pool is not what it cost.
        late_corrections_nano=sum(
            one.cost_nano_usd for consumer, one in late.items() if consumer.deployment not in pools
        ),
        tokenizers=_tokenizers(observed),
        latencies=_latencies(observed),
    )


def _changes(book: PriceBook, hosted: Sequence[Deployment], since: int, until: int) -> list[int]:
    """The moments within the period at which another price came into force."""
    models = {(one.provider.value, one.model) for one in hosted}
    return sorted(
        {
            one.effective_from
            for one in book
            if (one.provider, one.model) in models and since < one.effective_from < until
        }
    )


def _tokenizers(observed: Iterable[PastAnswer]) -> dict[str, TokenizerRatio]:
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for one in observed:
        facts = _decode_facts(one.facts)
        is_text = facts.media == NO_MEDIA and facts.text_bytes > 0
        if is_text and one.input_tokens >= LEARN_FROM_TOKENS:  # fewer are mostly chat template
            ratios[one.deployment].append(facts.text_bytes / one.input_tokens)
    return {
        name: TokenizerRatio(
            bytes_per_token=round(statistics.median(found), 4),
            low=round(_percentile(found, 10), 4),
            high=round(_percentile(found, 90), 4),
            prompts=len(found),
        )
        for name, found in sorted(ratios.items())
        if len(found) >= LEAST_PROMPTS
    }


def _latencies(observed: Iterable[PastAnswer]) -> dict[str, Latency]:
    by_name: defaultdict[str, list[PastAnswer]] = defaultdict(list)
    for one in observed:
        by_name[one.deployment].append(one)
    return {name: _latency(found) for name, found in sorted(by_name.items())}


def _latency(observed: Sequence[PastAnswer]) -> Latency:
    first = [one.ttft_ms for one in observed if one.stream and one.ttft_ms is not None]
    speeds = [
        1000 * (one.output_tokens - 1) / (one.duration_ms - one.ttft_ms)
        for one in observed
        if one.stream and one.ttft_ms is not None and one.output_tokens > 1 and one.duration_ms > one.ttft_ms
    ]
    return Latency(
        answers=len(observed),
        ttft_ms_median=round(statistics.median(first), 3) if first else None,
        ttft_ms_p95=round(_percentile(first, 95), 3) if first else None,
        tokens_per_second_median=round(statistics.median(speeds), 3) if speeds else None,
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many per cent do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def learned(terms: PoolTerms, observed: Iterable[PastAnswer]) -> tuple[PoolTerms, bool]:
    """`terms` with the weights that were observed, where they are to be and enough was.

    The time to the first token for each that was read, and the time after it for each that was written: how
    long each keeps its place on a replica.
    """
    found = [
        (one, one.ttft_ms)
        for one in observed
        if one.deployment == terms.plan.deployment and one.stream and one.ttft_ms is not None
    ]
    read = sum(one.input_tokens for one, _ in found)
    written = sum(max(one.output_tokens - 1, 0) for one, _ in found)
    if not terms.learn or len(found) < LEAST_STREAMS or not read or not written:
        return terms, False
    prefill = max(round(1_000_000 * sum(ttft for _, ttft in found) / read), 1)
    decode = max(round(1_000_000 * sum(one.duration_ms - ttft for one, ttft in found) / written), 1)
    given = terms.weights
    cached = prefill * given.cached // given.prefill if given.prefill else prefill
    learned = Weights(prefill=prefill, cached=cached, decode=decode)
    return msgspec.structs.replace(terms, weights=learned), True
