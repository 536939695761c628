"""Every metric that Tollway exports: name, kind, labels, and a help text with its unit.

`docs/metrics.md` describes the same list for readers; a test holds the two together.
"""

import enum

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


class MetricKind(enum.StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(msgspec.Struct, frozen=True):
    """One metric. `name` as in the text that Prometheus reads; `help` begins with the unit's meaning."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    help: str

    def counter(self) -> CounterMetricFamily:
        return CounterMetricFamily(self.name, self.help, labels=self.labels)

    def gauge(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self.name, self.help, labels=self.labels)

    def histogram(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self.name, self.help, labels=self.labels)

    def empty(self) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
        if self.kind is MetricKind.COUNTER:
            return self.counter()
        return self.gauge() if self.kind is MetricKind.GAUGE else self.histogram()


def _counter(name: str, labels: str, text: str) -> Family:
    return Family(f"tollway_{name}", MetricKind.COUNTER, tuple(labels.split()), text)


def _gauge(name: str, labels: str, text: str) -> Family:
    return Family(f"tollway_{name}", MetricKind.GAUGE, tuple(labels.split()), text)


def _histogram(name: str, labels: str, text: str) -> Family:
    return Family(f"tollway_{name}", MetricKind.HISTOGRAM, tuple(labels.split()), text)


REQUESTS = _counter(
    "requests_total",
    "model deployment feature team outcome",
    "Requests, each counted once: by how its last attempt ended, or as refused.",
)
ATTEMPTS = _counter(
    "attempts_total", "deployment outcome", "Dispatches to an upstream; a request has one or more."
)
ACCOUNT_REJECTED = _counter(
    "upstream_account_rejected_total",
    "deployment",
    "Attempts that the upstream refused for our own account there: key, money, permission or model name.",
)
TOKENS = _counter(
    "tokens_total",
    "deployment feature type modality",
    "Tokens of all attempts. Types and modalities are disjoint and add up to all tokens.",
)
FLAGGED = _counter(
    "usage_flagged_total",
    "deployment flag",
    "Attempts whose usage or price a person should look at, by what is wrong with them.",
)
COST = _counter(
    "cost_usd_total", "deployment feature team", "Cost of all attempts at the deployment's price, in USD."
)
COUNTERFACTUAL = _counter(
    "counterfactual_cost_usd_total",
    "feature deployment",
    "What attempts answered elsewhere would have cost on this deployment, in USD.",
)
DURATION = _histogram(
    "request_duration_seconds",
    "deployment stream",
    "Seconds from the dispatch of a request's last attempt until its end.",
)
FIRST_TOKEN = _histogram(
    "time_to_first_token_seconds", "deployment", "Seconds from dispatch to the first token of a stream."
)
INTER_TOKEN = _histogram(
    "inter_token_seconds", "deployment", "Mean seconds between two tokens of a stream; one value a stream."
)
OVERHEAD = _histogram(
    "overhead_seconds", "", "Seconds in the gateway from a request's arrival until its first dispatch."
)
DECISIONS = _counter(
    "route_decisions_total",
    "model deployment reason",
    "Admitted requests by the deployment planned first, and why.",
)
REFUSALS = _counter("refusals_total", "code", "Requests answered with an error, by the error's code.")
REFUSALS_LIMITED = _counter(
    "refusals_limited_total",
    "result",
    "Refusals beyond the allowance of their address or key: answered late, or with a 429 in their place.",
)
SHED = _counter(
    "shed_requests_total",
    "priority",
    "Requests refused because they would have waited too long for their turn, by their priority.",
)
OVERLOADED = _gauge(
    "overloaded", "", "1 while requests are refused because they would wait too long, else 0."
)
REFUSALS_NOT_KEPT = _counter(
    "refusals_not_kept_total", "", "Refused requests that left no record: there were too many, or no room."
)
LIMIT_REJECTIONS = _counter(
    "limit_rejections_total", "scope limit", "Requests refused by a limit or budget of a kind of scope."
)
SHADOW_REJECTIONS = _counter(
    "shadow_rejections_total",
    "scope limit",
    "Requests that a limit in shadow mode would have refused, by kind of scope.",
)
TYPICAL_OUTPUT = _gauge(
    "typical_output_tokens",
    "feature model capped",
    "Output tokens that limits with `estimate: typical` hold for each choice of an answer, where learned.",
)
FIELDS_DROPPED = _counter(
    "fields_dropped_total",
    "deployment field",
    "Attempts without a field of the client's that would have steered an engine or router.",
)
DIALECT_LEARNED = _counter(
    "dialect_learned_total",
    "deployment field",
    "Times that a deployment's servers refused a field of the gateway's own, which it then stopped sending.",
)
BUDGET_ALERTS = _counter(
    "budget_alerts_total",
    "scope name window percent",
    "Times that a budget has reached a percentage of its limit at which it alerts.",
)
BUDGET_REFUSALS = _counter(
    "budget_refusals_total",
    "scope name window reason",
    "Requests that a hard budget refused: used, or only held by requests in flight.",
)
BUDGET_LIMIT = _gauge("budget_limit_usd", "scope name window", "A budget's limit in each window, in USD.")
BUDGET_SPENT = _gauge("budget_spent_usd", "scope name window", "Spent in the budget's open window, in USD.")
BUDGET_HELD = _gauge(
    "budget_held_usd", "scope name window", "Reserved in the open window by requests in flight, in USD."
)
BUDGET_UNSEEN = _gauge(
    "budget_unseen_usd",
    "scope name window",
    "Set aside in the open window for what broken streams may have cost beyond what was seen, in USD.",
)
REPLICA_UP = _gauge(
    "replica_up", "deployment replica", "1 when requests may go to the replica, 0 when it is down or tripped."
)
REPLICA_BUSY = _gauge(
    "replica_busy",
    "deployment replica",
    "1 while the replica has just said to be full (429 or 503): it is well, and others are asked first.",
)
REPLICA_BARRED_KEYS = _gauge(
    "replica_barred_keys",
    "deployment replica",
    "Keys whose own requests alone have failed on the replica, and which it gets nothing from for a moment.",
)
REPLICA_INFLIGHT = _gauge("replica_inflight", "deployment replica", "Attempts under way on the replica.")
RETIRES = _gauge(
    "deployment_retires_in_days", "deployment", "Days until the deployment retires; below 0 it has retired."
)
POOL_COST = _counter(
    "pool_cost_usd_total",
    "deployment",
    "Cost of own GPUs that this process has booked, idle included, in USD.",
)
POOL_GPU_SECONDS = _counter(
    "pool_gpu_seconds_total", "deployment", "GPU-seconds provisioned that this process has booked."
)
POOL_UTILISATION = _gauge(
    "pool_utilisation_ratio",
    "deployment",
    "Work of the latest hour by the work possible at saturation, 0 to 1.",
)
POOL_EFFECTIVE = _gauge(
    "pool_effective_usd_per_million_tokens",
    "deployment",
    "Cost of the latest hour by the tokens served in it, read and written, in USD per million.",
)
READY = _gauge(
    "ready", "", "1 while new requests may come, hard budgets included, 0 while /readyz says why not."
)
DEGRADED = _gauge(
    "degraded", "", "Things that fail and keep no request away, as /readyz lists them under `degraded`."
)
LEDGER_LAG = _gauge("ledger_lag_rows", "", "Usage records that wait to be committed to the ledger, in rows.")
LEDGER_WRITABLE = _gauge(
    "ledger_writable", "", "1 while usage records find their way into the ledger, 0 while they cannot."
)
LEDGER_WRITER_UP = _gauge(
    "ledger_writer_up", "", "1 while the process that writes the ledger runs, 0 while it does not."
)
LEDGER_WRITER_RESTARTS = _counter(
    "ledger_writer_restarts_total", "", "Times that the process that writes the ledger was started again."
)
LEDGER_COMMIT = _histogram(
    "ledger_commit_seconds", "", "Seconds that a commit to the ledger's database took."
)
DISK_FREE = _gauge(
    "disk_free_bytes", "path", "Bytes that are free on the disk of the ledger's file or of the journal."
)
DISK_SIZE = _gauge("disk_size_bytes", "path", "Bytes of that disk in all.")
BUILD = _gauge("build_info", "version", "Always 1; the label is the running version.")
POLICY = _gauge("policy_info", "version", "Always 1; the label is the policy version in force.")
ENTITY_LOOKS = _counter(
    "entity_looks_total",
    "result",
    "Texts shown to the named-entity recogniser by result; all but clear count as found.",
)
TRACE_SPANS = _counter(
    "trace_spans_total",
    "result",
    "Spans by what became of them: exported, dropped for want of room or time, refused by the collector.",
)
RELOADS = _counter(
    "config_reloads_total",
    "result",
    "Reloads of the configuration by result: applied, unchanged, invalid, restart_required or unavailable.",
)
RELOAD_OK = _gauge(
    "config_last_reload_successful",
    "",
    "1 when the last reload, or the start, brought the file into force; 0 while an older version serves on.",
)
RELOAD_TIME = _gauge(
    "config_last_reload_success_timestamp_seconds",
    "",
    "When the file was last brought into force, in seconds since 1970.",
)

LOG_LINES_LOST = _counter(
    "log_lines_lost_total", "", "Lines of the log that whoever reads stderr was too slow for."
)
CONNECTIONS = _gauge("connections", "port", "Connections of clients that are open.")
MOST_CONNECTIONS = _gauge("connections_max", "port", "Connections that the port takes at a time.")
CONNECTIONS_TAKEN = _counter("connections_taken_total", "port", "Connections of clients that were taken.")
CONNECTIONS_EVICTED = _counter(
    "connections_evicted_total",
    "port",
    "Connections that waited for a request of their client, and gave way to new ones at a full port.",
)
ACCEPTING_PAUSED = _counter(
    "accepting_paused_total",
    "port reason",
    "Times that a port took no connection for a moment: full of clients, or without file descriptors.",
)
TASK_UP = _gauge(
    "background_task_up", "task", "1 while the background task works, 0 while it fails and is tried again."
)
TASK_FAILURES = _counter(
    "background_task_failures_total", "task", "Failed turns of the background task; each is tried again."
)
EVENT_LOOP_TASKS = _gauge(
    "event_loop_tasks", "", "Tasks of the event loop at the moment of the scrape; a request's end with it."
)

WORKER_UP = _gauge(
    "worker_up", "worker", "With several workers: 1 when the worker takes requests, 0 when it does not."
)
WORKER_RESTARTS = _counter(
    "worker_restarts_total", "worker", "With several workers: times that the worker was started again."
)

FAMILIES = (
    REQUESTS,
    ATTEMPTS,
    ACCOUNT_REJECTED,
    TOKENS,
    FLAGGED,
    COST,
    COUNTERFACTUAL,
    DURATION,
    FIRST_TOKEN,
    INTER_TOKEN,
    OVERHEAD,
    DECISIONS,
    REFUSALS,
    SHED,
    OVERLOADED,
    REFUSALS_NOT_KEPT,
    REFUSALS_LIMITED,
    LIMIT_REJECTIONS,
    SHADOW_REJECTIONS,
    TYPICAL_OUTPUT,
    FIELDS_DROPPED,
    DIALECT_LEARNED,
    BUDGET_ALERTS,
    BUDGET_REFUSALS,
    BUDGET_LIMIT,
    BUDGET_SPENT,
    BUDGET_HELD,
    BUDGET_UNSEEN,
    REPLICA_UP,
    REPLICA_BUSY,
    REPLICA_BARRED_KEYS,
    REPLICA_INFLIGHT,
    RETIRES,
    POOL_COST,
    POOL_GPU_SECONDS,
    POOL_UTILISATION,
    POOL_EFFECTIVE,
    READY,
    DEGRADED,
    LEDGER_LAG,
    LEDGER_WRITABLE,
    LEDGER_WRITER_UP,
    LEDGER_WRITER_RESTARTS,
    LEDGER_COMMIT,
    DISK_FREE,
    DISK_SIZE,
    BUILD,
    POLICY,
    ENTITY_LOOKS,
    TRACE_SPANS,
    RELOADS,
    RELOAD_OK,
    RELOAD_TIME,
    LOG_LINES_LOST,
    CONNECTIONS,
    MOST_CONNECTIONS,
    CONNECTIONS_TAKEN,
    CONNECTIONS_EVICTED,
    ACCEPTING_PAUSED,
    TASK_UP,
    TASK_FAILURES,
    EVENT_LOOP_TASKS,
)
# Beside those, of the process that watches over several workers.
WORKER_FAMILIES = (WORKER_UP, WORKER_RESTARTS)
