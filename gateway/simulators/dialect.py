"""The seam between the two simulators: what a server says and how. Implemented by OpenAI and vLLM."""

from collections.abc import Callable
from typing import Protocol

from gateway.simulators.exchange import Reply, SimulatedExchange
from gateway.simulators.knobs import ErrorKind, Knobs
from gateway.simulators.prefix_cache import PrefixCache
from gateway.simulators.prompts import Modalities, Prompt
from gateway.simulators.refusals import Header, SimulatedRefusal
from gateway.simulators.requests import Json, SimulatedCall
from gateway.simulators.state import State
from gateway.simulators.wire import Shape


class Observer(Protocol):
    """Sees each generation pass, for metrics. Every `started` gets one `finished`."""

    def started(self, prompt_tokens: int, cached_tokens: int, choices: int) -> None:
        """A prompt of so many tokens, so many of them cached, is to be answered `choices` times."""

    def first_token(self, seconds_since_arrival: float) -> None: ...
    def tokens(self, count: int, gap_seconds: float | None) -> None:
        """So many tokens generated, so long after the one before (None: not known)."""

    def finished(self, reason: str, seconds: float, held_tokens: int) -> None:
        """`held_tokens`: prompt and output tokens that leave the KV cache."""


class Dialect(Protocol):
    """One kind of server."""

    @property
    def modalities(self) -> Modalities: ...
    @property
    def observer(self) -> Observer: ...
    @property
    def headers_before_first_token(self) -> bool:
        """A stream's response head leaves at once, not with the first token."""

    def new_prefix_cache(self) -> PrefixCache: ...
    def models(self, knobs: Knobs) -> tuple[str, ...]: ...
    def max_model_len(self, knobs: Knobs) -> int: ...

    def authorize(self, exchange: SimulatedExchange, knobs: Knobs) -> None:
        """Raises Refused (401)."""

    def answer(self, exchange: SimulatedExchange, state: State) -> Reply:
        """Everything but text generation. Raises Refused."""

    def unknown_model(self, model: str) -> SimulatedRefusal: ...
    def check(self, call: SimulatedCall, document: Json, prompt: Prompt, knobs: Knobs) -> int:
        """The most tokens a choice may have. Raises Refused for what this server in particular refuses."""

    def sequences(self, call: SimulatedCall) -> int:
        """How many of the requests in flight, which are bounded, this one is."""

    @property
    def overload(self) -> ErrorKind:
        """How this server answers when too much is in flight."""

    def fault(self, kind: ErrorKind, knobs: Knobs, model: str) -> SimulatedRefusal:
        """The refusal for `kind`, in this server's words."""

    def envelope(self, refused: SimulatedRefusal) -> bytes: ...
    def shape(self, call: SimulatedCall) -> Shape: ...
    def usage(self, prompt: Prompt, cached_tokens: int) -> Callable[[int], Json]: ...
    def reported_model(self, model: str) -> str: ...
    def ident(self, exchange: SimulatedExchange, call: SimulatedCall) -> str: ...
    def headers(self, exchange: SimulatedExchange, state: State) -> list[Header]:
        """Headers of every answer of the API."""
