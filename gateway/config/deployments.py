"""From the file's deployments to the core's: prices resolved, addresses taken apart, headers prepared."""

import datetime
import hashlib
import ipaddress
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import msgspec

from gateway import __version__
from gateway.config import catalogue as schema
from gateway.config.endpoints import endpoint_at
from gateway.config.kinds import VISIBLE_ASCII
from gateway.config.prices import price_list
from gateway.core import catalog
from gateway.core.calendar import start_of_day
from gateway.core.endpoint import IpNetwork, Timeouts
from gateway.core.money import nano_from_usd
from gateway.core.rates import Price, Rates
from gateway.core.usage import SEARCH_QUERIES
from gateway.dialects.table import (
    CHATS,
    IMPLIED,
    TABLE,
    DeveloperRole,
    MetadataRule,
    PromptCount,
    ServerDialect,
    Steering,
    StreamOptions,
    UnknownFields,
)
from gateway.finance.price_catalogue import Listing, PriceCatalogue
from gateway.finance.tariffs import PriceList, tariffs
from gateway.privacy.vocabularies import ENCODINGS, UnusableVocabulary, known_tokenizer, load_vocabulary

HOURS_PER_MONTH: Final = 730  # 365 days of 24 hours, over twelve

# Benchmarks publish output tokens/s while as many prompt tokens are read. Reading is about four times
# cheaper than writing, as the market's prices also have it, so a fifth of the cost goes to the prompt.
INPUT_SHARE: Final = Decimal("0.2")

# vLLM's server closes connections that were idle for five seconds; leave before it does.
_VLLM_IDLE_SECONDS: Final = 4.0
_IDLE_SECONDS: Final = 60.0

# vLLM aborts what nobody waits for. OpenAI and Azure stop a stream, and finish an answer in one piece.
_STOPS_WHEN_LEFT: Final = {
    "vllm": catalog.StopsWhenLeft.ALWAYS,
    "openai": catalog.StopsWhenLeft.STREAMS,
    "azure": catalog.StopsWhenLeft.STREAMS,
}

# Image tokens: published tile rules at their largest (openai: 2048x768 is eight tiles; llama 4: 16 tiles).
_GPT_4O_IMAGE: Final = catalog.ImageRule(low=85, high=85 + 8 * 170)
_GPT_4O_MINI_IMAGE: Final = catalog.ImageRule(low=2833, high=2833 + 8 * 5667)
_LLAMA_4_IMAGE: Final = catalog.ImageRule(low=145 * 16 + 147, high=145 * 16 + 147)


class DeploymentError(Exception):
    """A deployment that cannot be built. `field` is the key at fault, the message says what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


def build_deployment(
    name: str,
    given: schema.Deployment,
    networks: Mapping[str, tuple[IpNetwork, ...] | None],
    prices: PriceCatalogue,
    zone: ZoneInfo,
) -> catalog.Deployment:
    """The core's deployment. Raises DeploymentError when its price or its limits are known to nobody."""
    listing = prices.find(given.provider, given.model) if _needs_listing(given) else None
    context, output = _sizes(given, listing)
    price, later_prices = _prices(given, listing, prices, zone)
    supports = _supports(given)
    _require_units(given, supports, _listed(given, listing))
    return catalog.Deployment(
        name=name,
        provider=catalog.Provider(given.provider),
        model=given.model,
        zone=given.zone,
        serves=frozenset(catalog.Api(item) for item in given.serves if item in set(catalog.Api)),
        accepts=frozenset(map(catalog.Modality, given.accepts)),
        supports=supports,
        context_tokens=context,
        max_output_tokens=output,
        price=price,
        later_prices=later_prices,
        image_rule=_image_rule(given),
        replicas=tuple(_replica(url, given, networks[given.zone]) for url in _urls(given)),
        headers=_headers(given),
        fetches_urls=_fetches_urls(given),
        stops_when_left=_stops_when_left(given),
        commit_after_seconds=given.commit_after_seconds,
        continuous_usage=given.continuous_usage,
        most_tokens_per_second=float(given.most_tokens_per_second),
        most_searches=given.most_searches,
        searches_unasked=given.searches_unasked,
        health=_health(given),
        retires_at=None if given.retires_on is None else end_of_day(given.retires_on, zone),
        retires_on=given.retires_on,
        dialect=_dialect(given),
    )


def _supports(given: schema.Deployment) -> frozenset[catalog.Capability]:
    """What the file says, and what follows from it for the provider."""
    implied = IMPLIED.get(given.provider, {})
    said = {*given.supports, *given.accepts}
    found = {*given.supports, *(name for word, name in implied.items() if word in said)}
    return frozenset(catalog.Capability(item) for item in found if item in set(catalog.Capability))


def _dialect(given: schema.Deployment) -> ServerDialect:
    """The provider's row of the table, with what the file says in place of it."""
    row, said = TABLE[given.provider], given.dialect
    return msgspec.structs.replace(
        row,
        caps=_caps(row, said.output_cap),
        stream_options=StreamOptions(said.stream_options),
        metadata=row.metadata if said.metadata is None else MetadataRule(said.metadata),
        developer=row.developer if said.developer_role is None else DeveloperRole(said.developer_role),
        efforts=row.efforts if said.reasoning_effort is None else said.reasoning_effort,
        steering=Steering(said.steering_fields),
        allows=frozenset(said.allow_fields),
        unknown_fields=UnknownFields(said.unknown_fields),
        counts=row.counts if said.count_prompt is None else PromptCount(said.count_prompt),
    )


def _caps(row: ServerDialect, named: str | None) -> Mapping[str, tuple[str, ...]]:
    if named is None:
        return row.caps
    if named == "none":
        return dict.fromkeys(row.caps, ())
    chats = {where: (named, *(name for name in row.caps[where] if name != named)) for where in CHATS}
    return {**row.caps, **chats}


def tokenizer_of(given: schema.Deployment, folder: Path) -> str | None:
    """By which its token ids are read; a path is relative to `folder`. Raises DeploymentError."""
    if given.tokenizer is None:
        return None if given.provider == "vllm" else known_tokenizer(given.model)
    if given.tokenizer in ENCODINGS:
        return given.tokenizer
    path = str(folder / given.tokenizer)
    try:
        load_vocabulary(path)
    except UnusableVocabulary as exc:
        raise DeploymentError(
            "tokenizer", f"cannot be used: {exc}. Expected a tokenizer.json or one of {', '.join(ENCODINGS)}"
        ) from exc
    return path


def end_of_day(day: datetime.date, zone: ZoneInfo) -> float:
    """The moment after the last one of `day` in `zone`, UTC seconds since 1970."""
    following = day + datetime.timedelta(days=1)
    return datetime.datetime.combine(following, datetime.time(), zone).timestamp()


def parse_networks(cidrs: tuple[str, ...]) -> tuple[IpNetwork, ...] | None:
    """The networks of a zone; None, any address, when the file names none."""
    return tuple(map(ipaddress.ip_network, cidrs)) or None


def replica_count(given: schema.Deployment) -> int:
    """How many replicas are provisioned."""
    return len(_urls(given))


def _urls(given: schema.Deployment) -> tuple[str, ...]:
    if given.replicas is not None and given.replicas.urls is not None:
        return given.replicas.urls
    return (given.base_url,) if given.base_url is not None else ()


def _replica(url: str, given: schema.Deployment, networks: tuple[IpNetwork, ...] | None) -> catalog.Replica:
    path, query = urlsplit(url).path.rstrip("/"), ""
    if given.provider == "azure":
        path += f"/openai/deployments/{_in_url('model', given.model)}"
        query = f"?api-version={_in_url('azure.api_version', given.azure.api_version)}"
    endpoint = msgspec.structs.replace(
        endpoint_at(url, given.tls, given.proxy),
        networks=networks,
        timeouts=Timeouts(
            connect_seconds=given.timeouts.connect_seconds,
            first_byte_seconds=given.timeouts.first_byte_seconds,
            between_bytes_seconds=given.timeouts.between_bytes_seconds,
            total_seconds=given.timeouts.total_seconds,
        ),
        max_connections=given.max_connections,
        idle_seconds=_VLLM_IDLE_SECONDS if given.provider == "vllm" else _IDLE_SECONDS,
    )
    return catalog.Replica(f"{endpoint.host}:{endpoint.port}", endpoint, path, query)


def _in_url(field: str, value: str) -> str:
    """`value` as part of a URL. Raises DeploymentError where it cannot be one."""
    if not VISIBLE_ASCII.fullmatch(value) or "#" in value:
        raise DeploymentError(field, "must be ASCII without spaces and #, because it is part of the URL")
    return value


def _headers(given: schema.Deployment) -> tuple[tuple[bytes, bytes], ...]:
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "user-agent": f"tollway/{__version__}",
    }
    if given.api_key is not None:
        secret = given.api_key.get_secret_value()
        if given.provider == "azure":
            headers["api-key"] = secret
        else:
            headers["authorization"] = f"Bearer {secret}"
    headers |= {name: value.get_secret_value() for name, value in given.headers.items()}
    return tuple((name.encode("ascii"), value.encode("ascii")) for name, value in headers.items())


def _fetches_urls(given: schema.Deployment) -> bool:
    # Own servers would fetch from inside the network, wherever a prompt tells them to.
    return given.provider in ("openai", "azure") if given.fetches_urls is None else given.fetches_urls


def _stops_when_left(given: schema.Deployment) -> catalog.StopsWhenLeft:
    if given.stops_when_left is not None:
        return catalog.StopsWhenLeft(given.stops_when_left)
    return _STOPS_WHEN_LEFT.get(given.provider, catalog.StopsWhenLeft.NEVER)


def _health(given: schema.Deployment) -> catalog.Health | None:
    # Only own servers are probed: a hosted API has no health route, and would count the probes.
    if given.provider != "vllm":
        return None
    return catalog.Health(
        path=given.health.path,
        interval_seconds=given.health.interval_seconds,
        timeout_seconds=given.health.timeout_seconds,
        silence_seconds=given.health.silence_seconds,
        drain_seconds=given.health.drain_seconds,
        stuck_seconds=given.health.stuck_seconds if given.health.watch_progress else None,
    )


def _image_rule(given: schema.Deployment) -> catalog.ImageRule:
    if given.provider == "vllm":
        return _LLAMA_4_IMAGE
    return _GPT_4O_MINI_IMAGE if "mini" in given.model else _GPT_4O_IMAGE


def _needs_listing(given: schema.Deployment) -> bool:
    # Also with a price in the file: the catalogue may know what else the provider asks money for.
    is_own = given.cost is not None or (given.provider == "vllm" and given.price is not None)
    return not is_own or given.context_tokens is None or given.max_output_tokens is None


def _sizes(given: schema.Deployment, listing: Listing | None) -> tuple[int, int]:
    context = given.context_tokens or (listing.context_tokens if listing else None)
    if context is None:
        raise DeploymentError(
            "context_tokens", f"the price catalogue does not know {given.model}: give it here"
        )
    output = given.max_output_tokens or (listing.max_output_tokens if listing else None)
    if output is None:
        if set(given.serves) == {"embeddings"}:
            return context, 1
        raise DeploymentError(
            "max_output_tokens", f"the price catalogue does not know {given.model}: give it here"
        )
    return context, output


def _prices(
    given: schema.Deployment, listing: Listing | None, prices: PriceCatalogue, zone: ZoneInfo
) -> tuple[Price, tuple[catalog.DatedPrice, ...]]:
    """The price from the beginning, and those that take its place."""
    if given.price is None and given.cost is not None:
        return _transfer_prices(given, given.cost, zone)
    if (listed := _listed(given, listing)) is not None:
        found = tariffs(listed)
        source = prices.version if given.price is None else "config"
        return _versioned(source, found.standard, found.tiers), ()
    raise DeploymentError(
        "price",
        f"nobody knows what {given.model} at {given.provider} costs: give `price` in USD per million tokens "
        "(a request of unknown price cannot be held against a budget)",
    )


def _listed(given: schema.Deployment, listing: Listing | None) -> PriceList | None:
    """The file's prices, with what the catalogue adds to them, or the catalogue's."""
    known = None if listing is None else listing.prices
    return known if given.price is None else price_list(given.price, known)


def _require_units(
    given: schema.Deployment, supports: frozenset[catalog.Capability], listed: PriceList | None
) -> None:
    """Raise DeploymentError where something that it can do has no price, and would be booked at a guess.

    A token on own servers costs what a token does.
    """
    if given.provider == "vllm" or listed is None:
        return
    for named, is_declared, unit, key in (
        ("accepts: [audio]", "audio" in given.accepts, "input_audio", "input_audio"),
        ("audio_output", catalog.Capability.AUDIO_OUTPUT in supports, "output_audio", "output_audio"),
        ("web_search", catalog.Capability.WEB_SEARCH in supports, SEARCH_QUERIES, "per_search"),
        ("searches_unasked", given.searches_unasked, SEARCH_QUERIES, "per_search"),
    ):
        if is_declared and unit not in listed.base:
            of = "one search" if unit == SEARCH_QUERIES else f"a million {unit.replace('_', ' ')} tokens"
            raise DeploymentError(
                f"price.{key}",
                f"needed because of {named}, and no list has it: give USD for {of}; 0 where it is free",
            )


def _versioned(source: str, standard: Rates, tiers: Mapping[str, Rates]) -> Price:
    """A price's version is its source and a digest of its numbers: equal numbers, equal version."""
    digest = hashlib.sha256(msgspec.json.encode((standard, sorted(tiers.items())))).hexdigest()
    return Price(version=f"{source}-{digest[:8]}", standard=standard, tiers=tiers)


def _transfer_prices(
    given: schema.Deployment, cost: schema.PoolCost, zone: ZoneInfo
) -> tuple[Price, tuple[catalog.DatedPrice, ...]]:
    """One price for each price of the GPUs, from the same moment on; the first one from the beginning."""
    found = [
        (one.since, _versioned("cost", _transfer_rates(given, cost, one.usd), {}))
        for one in cost.usd_per_gpu_hour
    ]
    later = tuple(
        catalog.DatedPrice(start_of_day(since, zone), price) for since, price in found if since is not None
    )
    return found[0][1], later


def _transfer_rates(given: schema.Deployment, cost: schema.PoolCost, usd_per_gpu_hour: Decimal) -> Rates:
    """What a token costs when the own GPUs are fully used: the least that budgets should charge for it."""
    if cost.saturation_tokens_per_second is None:
        raise DeploymentError(
            "cost.saturation_tokens_per_second", "needed to derive a transfer price: give it, or give `price`"
        )
    replicas = max(replica_count(given), 1)
    usd_per_hour = cost.gpus_per_replica * usd_per_gpu_hour + (
        cost.overhead_usd_per_month / HOURS_PER_MONTH / replicas
    )
    usd_per_million = usd_per_hour * 1_000_000 / (cost.saturation_tokens_per_second * 3600)
    given_input = _nano(usd_per_million * INPUT_SHARE)
    output = _nano(usd_per_million * (1 - INPUT_SHARE))
    # A prefix from the cache still occupies the GPU's memory; it is charged like any prompt token.
    return Rates(
        input=given_input,
        cached_input=given_input,
        output=output,
        input_audio=given_input,
        output_audio=output,
    )


def _nano(usd_per_million: Decimal) -> int:
    """USD per million tokens in nano-USD per million tokens, rounded up."""
    return nano_from_usd(usd_per_million)
