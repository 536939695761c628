"""What can answer: zones, deployments with their replicas and prices, and the models that clients name."""

import datetime
import enum
from collections.abc import Callable, Mapping

import msgspec

from gateway.core.conditions import Condition
from gateway.core.endpoint import Endpoint, IpNetwork
from gateway.core.rates import Price
from gateway.dialects.table import TABLE, ServerDialect


class Modality(enum.StrEnum):
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    FILE = "file"


class Capability(enum.StrEnum):
    TOOLS = "tools"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"
    CHOICES = "n"
    REASONING = "reasoning"
    FUNCTIONS = "functions"  # the members `functions` and `function_call`, from before tools
    CUSTOM_TOOLS = "custom_tools"  # tools that are no functions
    WEB_SEARCH = "web_search"
    AUDIO_OUTPUT = "audio_output"


# Asked of a deployment only where some deployment of the model has it: every OpenAI-like API reads `n`, and
# files that never mention it mean no restriction.
DECLARED_CAPABILITIES = frozenset({Capability.CHOICES, Capability.REASONING})


class Api(enum.StrEnum):
    """An endpoint family of the OpenAI API, as `serves` names it."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"


_API_PATHS = {
    Api.CHAT: "/chat/completions",
    Api.COMPLETIONS: "/completions",
    Api.EMBEDDINGS: "/embeddings",
}


class Provider(enum.StrEnum):
    """Which dialect of the OpenAI API a deployment speaks."""

    OPENAI = "openai"
    AZURE = "azure"
    VLLM = "vllm"
    COMPATIBLE = "openai-compatible"


class StopsWhenLeft(enum.StrEnum):
    """Which answers an upstream stops to generate, and to bill, once the connection is closed."""

    NEVER = "never"
    STREAMS = "streams"
    ALWAYS = "always"

    def stops(self, *, stream: bool) -> bool:
        """True when leaving such an answer ends the work on it."""
        return self is StopsWhenLeft.ALWAYS or (self is StopsWhenLeft.STREAMS and stream)


class Objective(enum.StrEnum):
    COST = "cost"
    LATENCY = "latency"
    QUALITY = "quality"
    ORDER = "order"
    WEIGHTS = "weights"


class DatedPrice(msgspec.Struct, frozen=True):
    """A price of the configuration's, from `since` (UTC microseconds) on."""

    since: int
    price: Price


class Zone(msgspec.Struct, frozen=True):
    """Where bytes end up. `networks` None: any address is inside."""

    name: str
    networks: tuple[IpNetwork, ...] | None


class Replica(msgspec.Struct, frozen=True):
    """One server of a deployment. `name` is `host:port`; `base_path` has no trailing slash.

    `query` is appended to every target, with its question mark (Azure's `api-version`).
    """

    name: str
    endpoint: Endpoint
    base_path: str
    query: str = ""

    def target(self, api: Api) -> bytes:
        """Path and query of `api` on this server, as sent on the wire."""
        return f"{self.base_path}{_API_PATHS[api]}{self.query}".encode("ascii")


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The active probe of a replica: a GET of `path` on the server's root, in seconds.

    When nobody listens there any more, streams have broken that say nothing for `silence_seconds`, and
    answers in one piece that have not come within `drain_seconds`. A replica is stuck on which nothing has
    moved for `stuck_seconds` while others do; None: never.
    """

    path: str = "/health"
    interval_seconds: float = 2.0
    timeout_seconds: float = 1.0
    silence_seconds: float = 5.0
    drain_seconds: float = 60.0
    stuck_seconds: float | None = 60.0


class ImageRule(msgspec.Struct, frozen=True, kw_only=True):
    """Most tokens that one image can cost: with `detail: low`, and otherwise."""

    low: int
    high: int


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """One priced destination. `model` is the name that the upstream is asked for.

    `price` is the configuration's, until the first of `later_prices`, which are in order of time.
    `commit_after_seconds`: how long a stream may say nothing before its head goes out all the same.
    `continuous_usage`: it is asked for its usage with each chunk of a stream. `most_tokens_per_second`
    is the speed that one choice of an answer is taken not to exceed while nobody has measured any.
    `most_searches` are those that one answer makes at most, `searches_unasked`: also where nobody asks for
    any.
    From `retires_at` (UTC seconds) on, `successors` take its place. `license_conflict` says why its licence
    forbids it to us. `dialect` None is its provider's. `marginal_rate` is what more tokens cost on servers
    that run anyway, in nano-USD per million. `tokenizer` is that of its token ids, None where it is not
    known. `in_own_zone`: its zone is the company's own. `lines` are those of the file on which its fields
    stand.

    Many attributes: one for each setting of the file that routing or pricing reads.
    """

    name: str
    provider: Provider
    model: str
    zone: str
    serves: frozenset[Api]
    accepts: frozenset[Modality]
    supports: frozenset[Capability]
    context_tokens: int
    max_output_tokens: int
    price: Price
    image_rule: ImageRule
    replicas: tuple[Replica, ...]
    headers: tuple[tuple[bytes, bytes], ...]
    stops_when_left: StopsWhenLeft = StopsWhenLeft.NEVER
    commit_after_seconds: float = 10.0
    continuous_usage: bool = False
    most_tokens_per_second: float = 5000.0
    most_searches: int = 10
    searches_unasked: bool = False
    fetches_urls: bool = False
    tokenizer: str | None = None
    health: Health | None = None
    retires_at: float | None = None
    retires_on: datetime.date | None = None
    successors: tuple[str, ...] = ()
    license_conflict: str | None = None
    marginal_rate: int | None = None
    dialect: ServerDialect | None = None
    in_own_zone: bool = False
    lines: Mapping[str, int] = {}
    later_prices: tuple[DatedPrice, ...] = ()

    @property
    def server_dialect(self) -> ServerDialect:
        return self.dialect or TABLE[self.provider]

    @property
    def searches(self) -> bool:
        """Whether an answer may cost searches."""
        return self.searches_unasked or Capability.WEB_SEARCH in self.supports

    def price_listed_at(self, at: int) -> Price:
        """The configuration's price at `at` (UTC microseconds)."""
        price = self.price
        for later in self.later_prices:
            if later.since <= at:
                price = later.price
        return price


class Rule(msgspec.Struct, frozen=True):
    """When `when` holds, `use` replaces the model's list, and `prefer` orders it. `number` counts from 1.

    `refuse`: the request is refused with this message instead. `sticky`: with weights, a session or user
    stays with one deployment.
    """

    number: int
    line: int
    when: str
    use: tuple[str, ...]
    prefer: Objective = Objective.ORDER
    weights: Mapping[str, float] = {}
    sticky: bool = False
    refuse: str | None = None


class RuleSet(msgspec.Struct, frozen=True):
    """The rules of one model. `first_match` takes facts by variable and gives a rule number, 0 for none.

    It looks at no other facts than `variables`. `conditions` are those of the rules, None for one that only
    the engine can evaluate; without any, nothing is known of them.
    """

    rules: tuple[Rule, ...]
    variables: tuple[str, ...]
    first_match: Callable[[Mapping[str, object]], int]
    conditions: tuple[Condition | None, ...] = ()


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A name that clients send, and the deployments that may answer it.

    `quality` ranks them for the objective of that name. `marginal`: where more tokens on running servers cost
    less than their price, they are compared by that.
    """

    name: str
    use: tuple[Deployment, ...]
    prefer: Objective
    weights: Mapping[str, float] = {}
    sticky: bool = False
    quality: Mapping[str, float] = {}
    marginal: bool = False
    rules: RuleSet | None = None
    created: int = 0
    line: int | None = None
