"""Schema of what can answer: `deployments` and `models`."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.config.kinds import (
    BLANK,
    AllowBlank,
    Amount,
    Blank,
    Count,
    Date,
    FilePath,
    Flag,
    HeaderName,
    HeaderValue,
    Name,
    RemotePort,
    Seconds,
    Secret,
    Section,
    Share,
    Text,
    Usd,
    refusal,
    usd_amount,
)
from gateway.config.prices import Price
from gateway.config.urls import Authority, HttpUrl, ProxyUrl, UrlPath
from gateway.dialects.table import EXTENSIONS, STEERING

Provider = Literal["openai", "azure", "vllm", "openai-compatible", "litellm"]
Serves = Literal[
    "chat",
    "completions",
    "responses",
    "embeddings",
    "moderations",
    "audio",
    "images",
    "videos",
    "rerank",
    "score",
    "tokenize",
    "realtime",
    "batches",
    "files",
]
Modality = Literal["text", "image", "audio", "video", "file"]
Capability = Literal[
    "tools",
    "json_schema",
    "logprobs",
    "n",
    "reasoning",
    "functions",
    "custom_tools",
    "web_search",
    "audio_output",
]


def _held_back_field(value: str) -> str:
    if value not in STEERING and value not in EXTENSIONS:
        raise refusal("is no field that the gateway holds back: every other field is passed on anyway")
    return value


HeldBackField = Annotated[Name, AfterValidator(_held_back_field)]
StopsWhenLeft = Literal["never", "streams", "always"]
Prefer = Literal["cost", "latency", "quality", "order", "weights"]


class GpuPrice(Section):
    since: Date | None = Field(
        default=None, description="first day of this price, in `org.timezone`; left out: from the beginning"
    )
    usd: Usd = Field(description="USD for one GPU for one hour")


def _as_prices(value: object) -> object:
    """One number stands for a price that has always been the same."""
    if isinstance(value, list | tuple | Blank):
        return value
    return ({"usd": usd_amount(value)},)


def _or_one_price(schema: dict[str, Any]) -> None:
    listed = {key: schema.pop(key) for key in ("type", "items", "minItems")}
    schema["anyOf"] = [{"type": "number", "minimum": 0}, listed]


class WorkWeights(Section):
    """How a pool's cost is shared by the tokens of those who used it."""

    prefill: Share = Field(default=Decimal(1), description="work of reading one token")
    cached: Share | None = Field(
        default=None, description="work of a token read from the prefix cache; left out: as `prefill`"
    )
    decode: Share = Field(default=Decimal(4), description="work of writing one token")
    learn: Flag = Field(
        default=False,
        description="take prefill and decode from the observed timings of each report's own period, "
        "where it has 100 streams or more",
    )


class PoolCost(Section):
    """What the GPUs of a self-hosted deployment cost."""

    gpu: Text = Field(description="GPU model, for reports")
    gpus_per_replica: Count = Field(default=1, description="GPUs that one replica occupies")
    usd_per_gpu_hour: Annotated[tuple[GpuPrice, ...], BeforeValidator(_as_prices)] = Field(
        description="USD for one GPU for one hour: a number, or a list of prices with their first days",
        min_length=1,
        json_schema_extra=_or_one_price,
    )
    overhead_usd_per_month: Usd = Field(
        default=Decimal(0),
        description="USD a calendar month for the whole pool beside the GPUs: staff, network, spares",
    )
    idle: Literal["proportional", "even", "apart"] = Field(
        default="proportional",
        description="who pays for idle GPUs: those who used the pool, by work or in equal parts, or nobody",
    )
    weights: WorkWeights = Field(default=WorkWeights(), description="what a token counts for when sharing")
    saturation_tokens_per_second: Amount | None = Field(
        default=None,
        description="tokens/s of one replica under full load; the transfer price is derived from it",
    )
    marginal_usd_per_million_tokens: Usd = Field(
        default=Decimal(0),
        description="USD that a million more tokens cost on GPUs that run anyway, such as their power",
    )


class Kubernetes(Section):
    namespace: Name = Field(description="namespace of the service")
    service: Name = Field(description="name of the headless service")
    port: RemotePort = Field(default=8000, description="port of each pod")


class Replicas(Section):
    """Exactly one of `urls`, `dns` and `kubernetes`."""

    urls: tuple[HttpUrl, ...] | None = Field(
        default=None, description="base URL of each replica", min_length=1
    )
    dns: Authority | None = Field(default=None, description="host:port whose addresses are the replicas")
    kubernetes: Kubernetes | None = Field(
        default=None, description="service whose ready pods are the replicas"
    )


class Timeouts(Section):
    connect_seconds: Seconds = Field(default=5.0, description="to a connection with TLS done, seconds")
    first_byte_seconds: Seconds = Field(default=120.0, description="to the first byte of a stream, seconds")
    between_bytes_seconds: Seconds = Field(
        default=300.0,
        description="between two bytes of a stream, seconds; reasoning models are silent for minutes",
    )
    total_seconds: Seconds = Field(
        default=600.0, description="for an answer in one piece, from its request to its end, seconds"
    )


class Tls(Section):
    """Certificates beside the system's. Verification cannot be switched off."""

    ca_file: FilePath | None = Field(default=None, description="PEM file of a private CA")
    cert_file: FilePath | None = Field(default=None, description="PEM file of the client certificate")
    key_file: FilePath | None = Field(default=None, description="PEM file of the client certificate's key")


class Health(Section):
    path: UrlPath = Field(default="/health", description="path on the replica's server root")
    interval_seconds: Seconds = Field(default=2.0, description="between two probes, seconds")
    timeout_seconds: Seconds = Field(default=1.0, description="for one probe, seconds")
    silence_seconds: Seconds = Field(
        default=5.0,
        description="once connections to a replica are refused: after so long a silence a stream from there "
        "has broken, seconds",
    )
    drain_seconds: Seconds = Field(
        default=60.0,
        description="once connections to a replica are refused: as long it may still take over an answer in "
        "one piece, seconds; more than its `--shutdown-timeout`",
    )
    watch_progress: Flag = Field(
        default=True, description="whether a replica that answers probes and makes no tokens is taken out"
    )
    stuck_seconds: Seconds = Field(
        default=60.0,
        description="with `watch_progress`: a replica is stuck on which nothing has moved for so long while "
        "others of the deployment answer, seconds",
    )


class Azure(Section):
    api_version: Text = Field(default="2024-10-21", description="value of the `api-version` query parameter")


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Dialect(Section):
    """How its server is spoken to, where that differs from its provider's row of the table."""

    output_cap: Literal["max_completion_tokens", "max_tokens", "none"] | None = Field(
        default=None,
        description="field for the output cap of chats, used first; none: its server honours no cap, so each "
        "request holds `max_output_tokens` for each choice; left out: max_tokens for openai-compatible, "
        "max_completion_tokens for the others",
    )
    stream_options: Literal["inject", "omit"] = Field(
        default="inject",
        description="ask for the usage of streams by `stream_options`, or send none: usage comes unasked, or "
        "not at all",
    )
    metadata: Literal["with_store", "always", "never"] | None = Field(
        default=None,
        description="when `metadata` is sent on: beside `store: true`, always or never; left out: never for "
        "vllm, with_store for the others",
    )
    developer_role: Literal["keep", "system"] | None = Field(
        default=None,
        description="messages of the role `developer`: as they are, or of the role `system`; left out: keep "
        "for openai and azure, system for the others",
    )
    reasoning_effort: tuple[Effort, ...] | None = Field(
        default=None,
        description="values of `reasoning_effort` that it takes, others become the nearest of them; an empty "
        "list: the field is left out; left out: all but max for openai and azure, all for the others",
    )
    steering_fields: Literal["drop", "refuse"] = Field(
        default="drop",
        description="fields that steer engines and routers, such as `priority` or `models`: left out of the "
        "request, or the request may not go there",
    )
    allow_fields: tuple[HeldBackField, ...] = Field(
        default=(),
        description="fields that steer engines and routers, or that its provider is not known to read, and "
        "are passed on all the same",
    )
    unknown_fields: Literal["pass", "drop", "refuse"] = Field(
        default="pass",
        description="fields that its provider is not known to read: passed on, left out of the request, or "
        "the request may not go there; detectors read them in any case",
    )
    count_prompt: Literal["estimate", "o200k", "server"] | None = Field(
        default=None,
        description="who counts a prompt near the context's end: nobody, the gateway with OpenAI's "
        "vocabulary, or the server's `/tokenize`; left out: o200k for openai and azure, server for vllm, "
        "estimate for openai-compatible",
    )


def _none_if_blank(value: object) -> object:
    return None if value is BLANK else value


def _default_serves(set_so_far: dict[str, Any]) -> tuple[Serves, ...]:
    """Endpoints of a deployment that names none."""
    return ("chat", "completions") if set_so_far.get("provider") == "vllm" else ("chat",)


class Deployment(Section):
    provider: Provider = Field(description="dialect that the upstream speaks")
    model: Text = Field(description="name that the upstream is asked for; for azure its deployment name")
    base_url: HttpUrl | None = Field(
        default=None, description="URL up to and including /v1; for azure the resource's URL"
    )
    api_key: Secret | None = Field(default=None, description="credential; needed for openai and azure")
    zone: Name = Field(description="where the bytes end up, one of `zones`")
    serves: tuple[Serves, ...] = Field(
        default_factory=_default_serves,
        min_length=1,
        description="endpoints; left out: chat and completions for vllm, chat for the others",
    )
    accepts: tuple[Modality, ...] = Field(
        default=("text",), description="modalities of the input", min_length=1
    )
    supports: tuple[Capability, ...] = Field(
        default=(), description="capabilities that a request may ask for"
    )
    context_tokens: Count | None = Field(
        default=None,
        description="longest prompt and output together, tokens; left out: from the price catalogue",
    )
    max_output_tokens: Count | None = Field(
        default=None, description="longest output, tokens; left out: from the price catalogue"
    )
    price: Price | None = Field(
        default=None,
        description="USD per million tokens; left out: from the price catalogue, or derived from `cost`",
    )
    cost: PoolCost | None = Field(default=None, description="what the own GPUs behind it cost")
    replicas: Replicas | None = Field(default=None, description="servers of a vllm deployment")
    license: Text | None = Field(
        default=None, description="licence of the weights, such as llama-4-community"
    )
    retires_on: Date | None = Field(
        default=None, description="last day on which it is used, in `org.timezone`"
    )
    successor: Annotated[Name | None, BeforeValidator(_none_if_blank)] = Field(
        default=None, description="deployment or model that takes its requests after `retires_on`"
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="bounds on one exchange")
    tls: Tls = Field(default=Tls(), description="private CA and client certificate")
    proxy: ProxyUrl | None = Field(
        default=None,
        description="forward proxy that tunnels to it by CONNECT, such as `http://user:password@proxy:3128`; "
        "https: TLS to the proxy itself; not in a zone with `cidrs`, whose addresses could not be checked",
    )
    headers: Annotated[dict[HeaderName, HeaderValue], AllowBlank] = Field(
        default={}, description="extra headers of each upstream request"
    )
    fetches_urls: Flag | None = Field(
        default=None,
        description="whether it may be sent http(s) addresses of images, audio, video and files to fetch; "
        "left out: true for openai and azure, which fetch from outside, false for the others",
    )
    tokenizer: Text | None = Field(
        default=None,
        description="how prompts of token ids are read: `cl100k_base`, `o200k_base`, `p50k_base`, or a path "
        "to a `tokenizer.json` of Hugging Face, relative to this file; left out: known for OpenAI's models",
    )
    stops_when_left: StopsWhenLeft | None = Field(
        default=None,
        description="answers that the upstream stops to generate and to bill when their connection closes; "
        "with `never` they are read to their end when a client leaves, to learn what they cost; "
        "left out: always for vllm, streams for openai and azure, never for the others",
    )
    dialect: Dialect = Field(
        default=Dialect(), description="what its server reads, where that is not usual for its provider"
    )
    commit_after_seconds: Seconds = Field(
        default=10.0,
        description="a stream that says nothing yet may be given to another candidate for so long after it "
        "was sent; then its head goes out, so that the client sees that it is being answered",
    )
    most_tokens_per_second: Count = Field(
        default=5000,
        description="the fastest that one choice of an answer is written there, for what one may have cost "
        "that was left before any speed was measured; the fastest public services publish 3,000",
    )
    most_searches: Count = Field(
        default=10,
        description="searches of the web that one answer makes at most: so many are held, at `per_search`, "
        "where a request asks for any",
    )
    searches_unasked: Flag = Field(
        default=False, description="whether its answers search the web where nobody asked for it"
    )
    continuous_usage: Flag = Field(
        default=False,
        description="ask for usage with each chunk of a stream (`stream_options.continuous_usage_stats`), so "
        "that a stream that breaks off is booked exactly; only for vllm and openai-compatible",
    )
    health: Health = Field(default=Health(), description="active probe of each replica")
    max_connections: Count = Field(default=1024, description="most connections to one server")
    azure: Azure = Field(default=Azure(), description="only for provider azure")
    region: Text | None = Field(
        default=None, description="region in which it runs, as its provider calls it, for `export focus`"
    )
    provider_name: Text | None = Field(
        default=None,
        description="who sends its invoice, for `export focus`; left out: OpenAI, Microsoft for azure, the "
        "deployment's own name for the others",
    )


class Rule(Section):
    when: Text = Field(description="CEL condition")
    use: tuple[Name, ...] = Field(
        default=(),
        description="deployments that remain, part of the model's `use`; required unless it refuses",
    )
    prefer: Prefer = Field(
        default="order", description="how to choose among those that remain; order is that of this `use`"
    )
    weights: Annotated[dict[Name, Share], AllowBlank] = Field(
        default={}, description="share of each deployment of this `use`, with `prefer: weights`"
    )
    sticky: Flag = Field(
        default=False, description="with `prefer: weights`: a session or user stays with one deployment"
    )
    refuse: Text | None = Field(
        default=None, description="message with which the request is refused, instead of `use`"
    )


class Model(Section):
    use: tuple[Name, ...] = Field(description="deployments that may answer", min_length=1)
    prefer: Prefer = Field(
        default="order", description="how to choose among those allowed; order is that of `use`"
    )
    weights: Annotated[dict[Name, Share], AllowBlank] = Field(
        default={}, description="share of each deployment of `use`, with `prefer: weights`"
    )
    sticky: Flag = Field(
        default=False, description="with `prefer: weights`: a session or user stays with one deployment"
    )
    quality: Annotated[dict[Name, Share], AllowBlank] = Field(
        default={}, description="rating of each deployment, with `prefer: quality`: the best first"
    )
    local_cost: Literal["amortised", "marginal"] = Field(
        default="amortised",
        description="what own GPUs count for when costs are compared: their transfer price, or only what "
        "more tokens add (`cost.marginal_usd_per_million_tokens`)",
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="the first whose `when` holds narrows or reorders `use`, or refuses"
    )
