"""The Prometheus page of a vLLM server: the names of vLLM 0.32, really counted."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.simulators.slots import Slots

KV_CAPACITY_TOKENS = 524_288
_BLOCK_TOKENS = 16
_MOST_UNBOOKED = 4096
_FINISHED = ("stop", "length", "abort", "error")
# fmt: off
_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)
_INTER_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)
_END_TO_END = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
)
# fmt: on


class VllmMetrics:
    """Observes generations. All series carry `model_name` and `engine`, as vLLM's do."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self._held_tokens = 0
        self._unbooked_tokens = 0
        self._unbooked_gaps: list[float] = []
        self._slots: Slots | None = None
        self._gauge(
            "num_requests_running", "Requests in execution batches.", lambda: self._of(lambda s: s.running)
        )
        self._gauge("num_requests_waiting", "Requests waiting.", lambda: self._of(lambda s: s.waiting))
        self._gauge("kv_cache_usage_perc", "KV-cache usage, 1 is full.", self.kv_cache_usage)
        self._sleep_and_cache_info()
        self._queries = self._counter("prefix_cache_queries", "Prefix cache queries, in queried tokens.")
        self._hits = self._counter("prefix_cache_hits", "Prefix cache hits, in cached tokens.")
        self._prompt = self._counter("prompt_tokens", "Prefill tokens processed.")
        self._generation = self._counter("generation_tokens", "Generation tokens processed.")
        self._counter("num_preemptions", "Preemptions.")
        self._success = self._finished_counter()
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "Time to first token.", _FIRST_TOKEN
        )
        self._inter_token = self._histogram(
            "inter_token_latency_seconds", "Inter-token latency.", _INTER_TOKEN
        )
        self._end_to_end = self._histogram("e2e_request_latency_seconds", "End-to-end latency.", _END_TO_END)

    def watch(self, slots: Slots) -> None:
        self._slots = slots

    def page(self) -> bytes:
        self._book()
        return generate_latest(self._registry)

    def kv_cache_usage(self) -> float:
        return min(self._held_tokens / KV_CAPACITY_TOKENS, 1.0)

    def started(self, prompt_tokens: int, cached_tokens: int, choices: int) -> None:
        """The engine reads a prompt once for each choice, and counts it so; its usage has it once."""
        self._held_tokens += prompt_tokens
        self._queries.inc(prompt_tokens * choices)
        self._hits.inc(cached_tokens * choices)
        self._prompt.inc(prompt_tokens * choices)

    def first_token(self, seconds_since_arrival: float) -> None:
        self._first_token.observe(seconds_since_arrival)

    def tokens(self, count: int, gap_seconds: float | None) -> None:
        """Once a token: set aside, and booked when somebody looks, or it would cost more than sending it."""
        self._held_tokens += count
        self._unbooked_tokens += count
        if gap_seconds is not None:
            self._unbooked_gaps.append(gap_seconds)
            if len(self._unbooked_gaps) >= _MOST_UNBOOKED:
                self._book()

    def finished(self, reason: str, seconds: float, held_tokens: int) -> None:
        self._held_tokens -= held_tokens
        self._success[reason].inc()
        self._end_to_end.observe(seconds)

    def _book(self) -> None:
        self._generation.inc(self._unbooked_tokens)
        for gap in self._unbooked_gaps:
            self._inter_token.observe(gap)
        self._unbooked_tokens = 0
        self._unbooked_gaps.clear()

    def _of(self, read: Callable[[Slots], int]) -> float:
        return 0.0 if self._slots is None else float(read(self._slots))

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        gauge = Gauge(f"vllm:{name}", text, list(self._labels), registry=self._registry)
        gauge.labels(**self._labels).set_function(read)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"vllm:{name}", text, list(self._labels), registry=self._registry)
        return counter.labels(**self._labels)

    def _finished_counter(self) -> dict[str, Counter]:
        names = [*self._labels, "finished_reason"]
        counter = Counter("vllm:request_success", "Finished requests.", names, registry=self._registry)
        return {reason: counter.labels(**self._labels, finished_reason=reason) for reason in _FINISHED}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", text, list(self._labels), registry=self._registry, buckets=buckets
        )
        return histogram.labels(**self._labels)

    def _sleep_and_cache_info(self) -> None:
        names = [*self._labels, "sleep_state"]
        sleep = Gauge("vllm:engine_sleep_state", "1 for the state it is in.", names, registry=self._registry)
        for state in ("awake", "weights_offloaded", "discard_all"):
            sleep.labels(**self._labels, sleep_state=state).set(state == "awake")
        cache = {"block_size": str(_BLOCK_TOKENS), "num_gpu_blocks": str(KV_CAPACITY_TOKENS // _BLOCK_TOKENS)}
        facts = {**cache, "cache_dtype": "fp8", "enable_prefix_caching": "True", "engine": "0"}
        info = Gauge(
            "vllm:cache_config_info", "The cache's configuration.", list(facts), registry=self._registry
        )
        info.labels(**facts).set(1)
