"""The ledger's tables as SQLAlchemy Core sees them. The migrations, not this file, make them.

Append-only: one row per attempt, corrections are new rows. Money in integer nano-USD, `at` in UTC
microseconds since 1970, durations in milliseconds. The first columns stand in the order of `rows.row_of`.
"""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

QUARTER = 15 * 60 * 1_000_000  # microseconds; every zone in use today is a multiple of it away from UTC
DAY = 24 * 3600 * 1_000_000

# What usage is added up by, and so all that a report can group or filter by once the rows are gone.
DIMENSIONS = ("org", "team", "feature", "key", "model", "deployment", "zone", "privacy", "outcome")
# What rollups and reports say as the `outcome` of what corrects another row, so that no payer's spending is
# mixed with it. Late: its own period was closed, so it is dated in one that it does not belong to.
CORRECTION = "correction"
LATE_CORRECTION = "late_correction"
CORRECTIONS = (CORRECTION, LATE_CORRECTION)
# Sums of a rollup. `attempts` and `requests` leave out reversals and repriced rows, the others add all up.
COUNTS = ("attempts", "requests", "estimated_attempts")
TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
MONEY = ("cost_nano_usd", "unseen_nano_usd")
# What of the cost is of which TOKENS, in their order; 0 where nobody can tell.
COSTS = ("input_nano_usd", "cached_input_nano_usd", "output_nano_usd", "reasoning_nano_usd")
SUMS = (*COUNTS, *TOKENS, *MONEY, *COSTS)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _optional_text(name: str) -> Column[str]:
    return Column(name, Text, nullable=True)


def _integer(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _added_integer(name: str) -> Column[int]:
    """One that a later revision has added, and that older versions leave at zero."""
    return Column(name, BigInteger, nullable=False, server_default="0")


def _key(name: str) -> Column[int]:
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


usage_record = Table(
    "usage_record",
    metadata,
    Column("attempt_id", Text, primary_key=True),
    _text("request_id"),
    _integer("at"),
    _text("org"),
    _text("team"),
    _text("feature"),
    _text("key"),
    _text("model"),
    _text("dispatched_model"),
    _optional_text("reported_model"),
    _text("endpoint"),
    _text("deployment"),
    _text("replica"),
    _text("zone"),
    _text("privacy"),
    _text("modalities"),
    _text("decision"),
    Column("stream", Boolean, nullable=False),
    _integer("status"),
    _text("outcome"),
    _optional_text("finish_reason"),
    _integer("input_tokens"),
    _integer("input_text_tokens"),
    _integer("input_image_tokens"),
    _integer("input_audio_tokens"),
    _integer("cached_input_tokens"),
    _integer("output_tokens"),
    _integer("output_text_tokens"),
    _integer("output_audio_tokens"),
    _integer("reasoning_tokens"),
    Column("estimated", Boolean, nullable=False),
    _optional_text("service_tier"),
    _text("price_version"),
    _integer("cost_nano_usd"),
    _text("counterfactual_nano_usd"),  # JSON: deployment -> nano-USD
    _integer("held_nano_usd"),
    _integer("unseen_nano_usd"),
    Column("ttft_ms", Double, nullable=True),
    Column("duration_ms", Double, nullable=False),
    _optional_text("upstream_request_id"),
    _text("tags"),  # JSON: name -> value
    _text("policy_version"),
    Column("facts", Text, nullable=False, server_default="{}"),  # JSON: a core.recorded.RecordedFacts
    Column("address", Text, nullable=False, server_default=""),  # ip:port that the bytes went to
    # JSON: every unit of usage and its amount, where the columns above do not tell all of it; else {}.
    Column("usage", Text, nullable=False, server_default="{}"),
    Column("flags", Text, nullable=False, server_default=""),  # of core.metering.FLAGS, with commas
    # JSON: the upstream's own counts, where they contradict each other; else {}.
    Column("reported", Text, nullable=False, server_default="{}"),
    # JSON: unit -> nano-USD per million, which its cost was worked out with; {} where that is not known.
    Column("rates", Text, nullable=False, server_default="{}"),
    *(_added_integer(name) for name in COSTS),
    # JSON: unit -> nano-USD of the cost, where `usage` has the units; else {}.
    Column("unit_nano_usd", Text, nullable=False, server_default="{}"),
    # Only corrections have other values here than these, so the writer leaves the three out.
    Column("kind", Text, nullable=False, server_default="usage"),  # usage | reversal | correction
    _optional_text("corrects"),  # attempt_id of the row that this one reverses or replaces
    Column(
        "occurred_at", BigInteger, nullable=True
    ),  # dispatch, of a row that its closed period did not take
)

# Reports read a span of time and keep some features. Rows arrive in order of time, so this index grows at its
# right edge and costs next to nothing; an index that led with the feature cost 20% more per row written.
Index("usage_record_at_feature", usage_record.c.at, usage_record.c.feature)

# Finds the corrections of a row. Other rows are not in it and cost nothing. The migration says so for
# PostgreSQL too; naming that here would load its dialect into every process.
Index(
    "usage_record_corrects",
    usage_record.c.corrects,
    sqlite_where=usage_record.c.corrects.is_not(None),
)

# One row for each combination that was ever used: rollups name it by a number instead of nine texts.
usage_group = Table(
    "usage_group",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    *(_text(name) for name in DIMENSIONS),
)
Index("usage_group_names", *(usage_group.c[name] for name in DIMENSIONS), unique=True)


def _rollup(name: str) -> Table:
    sums = (_added_integer(column) if column in COSTS else _integer(column) for column in SUMS)
    return Table(name, metadata, _key("starts"), _key("group_id"), *sums)


def _counterfactual_rollup(name: str) -> Table:
    elsewhere = Column("elsewhere", Text, primary_key=True)
    return Table(name, metadata, _key("starts"), _key("group_id"), elsewhere, _integer("nano_usd"))


# `starts` is the first microsecond of the quarter of an hour, or of the UTC day.
usage_quarter = _rollup("usage_quarter")
usage_day = _rollup("usage_day")
counterfactual_quarter = _counterfactual_rollup("counterfactual_quarter")
counterfactual_day = _counterfactual_rollup("counterfactual_day")


def _unit_rollup(name: str, amount: str) -> Table:
    unit = Column("unit", Text, primary_key=True)
    return Table(name, metadata, _key("starts"), _key("group_id"), unit, _integer(amount))


# Every unit of the rows that have their whole map, and what it cost. What the totals of usage_* have beyond
# them is of rows whose totals tell all.
unit_quarter = _unit_rollup("unit_quarter", "amount")
unit_day = _unit_rollup("unit_day", "amount")
unit_cost_quarter = _unit_rollup("unit_cost_quarter", "nano_usd")
unit_cost_day = _unit_rollup("unit_cost_day", "nano_usd")

# One row for each act of closing or deleting: the latest `before` (UTC microseconds) is in force.
period_end = Table(
    "period_end",
    metadata,
    Column("act", Text, primary_key=True),  # closed | pruned
    _key("before"),
    _integer("done_at"),
)

# The text of each version of the configuration that rows name, but for secrets that were written into it.
policy_text = Table(
    "policy_text",
    metadata,
    Column("version", Text, primary_key=True),
    _text("text"),
    Column("whole", Boolean, nullable=False),  # false: something was left out, so it cannot be put back
    _integer("kept_at"),  # UTC microseconds
)

# One row for each time that another version came into force.
policy_in_force = Table(
    "policy_in_force",
    metadata,
    _key("at"),  # UTC microseconds
    Column("version", Text, primary_key=True),
    _text("how"),  # start | signal | watch | admin
)

# The hash chains of `ledger/audit`, one for each process that writes; `seq` counts from 1.
audit_entry = Table(
    "audit_entry",
    metadata,
    Column("chain", Text, primary_key=True),
    _key("seq"),
    _integer("at"),  # UTC microseconds
    _text("kind"),
    _text("payload"),  # JSON
    _text("hash"),  # hexadecimal SHA-256 over all of the above and the hash before
    _text("signature"),  # hexadecimal Ed25519 over the hash
)
# Where each chain ends: what is cut off an end is missed here.
audit_head = Table(
    "audit_head", metadata, Column("chain", Text, primary_key=True), _integer("seq"), _text("hash")
)

# Immutable: a new price is a new row. Rates in nano-USD per million tokens.
price_version = Table(
    "price_version",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tier", Text, primary_key=True),  # standard | batch | flex | priority | ...
    Column("token_type", Text, primary_key=True),  # a field of core.catalog.Rates
    _key("effective_from"),  # UTC microseconds
    Column("version", Text, primary_key=True),
    _integer("nano_usd_per_million"),
    _integer("entered_at"),  # UTC microseconds; of two versions with one `effective_from` the later counts
)

# Requests that were answered with an error, for some days: the fields of a RefusedRequest.
refused_request = Table(
    "refused_request",
    metadata,
    Column("request_id", Text, primary_key=True),
    _integer("at"),
    _integer("status"),
    _text("code"),
    _text("refused_by"),
    _text("param"),
    _text("scope"),
    _text("limit_name"),
    _text("message"),
    _text("endpoint"),
    _text("org"),
    _text("team"),
    _text("feature"),
    _text("key"),
    _text("model"),
    _text("privacy"),
    Column("stream", Boolean, nullable=False),
    _text("deployment"),
    _integer("attempts"),
)
Index("refused_request_at", refused_request.c.at)

# How far the journal of each worker is in here: see positions.py.
journal_position = Table(
    "journal_position", metadata, Column("worker", Text, primary_key=True), _integer("committed")
)

# The revision that a version has to know to use these tables: see revisions.LEAST_TABLE.
ledger_revision = Table("ledger_revision", metadata, Column("version_num", String(32), primary_key=True))

# What a price version has beyond the five rates of price_version: other units, bands, hours. A JSON object.
price_terms = Table(
    "price_terms",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("tier", Text, primary_key=True),
    _key("effective_from"),  # UTC microseconds
    Column("version", Text, primary_key=True),
    _text("terms"),
)

# What own GPUs cost in [starts, ends), busy or not: one row after the other for each deployment, with no gap
# and no overlap while it is configured. The fields of a core.pool_cost.PoolSpan, then what follows from them.
pool_cost = Table(
    "pool_cost",
    metadata,
    Column("deployment", Text, primary_key=True),
    _key("starts"),  # UTC microseconds, as `ends`
    _integer("ends"),
    _text("gpu"),
    _integer("replicas"),
    _integer("gpus"),  # of all replicas
    _integer("nano_usd_per_gpu_hour"),
    _integer("overhead_nano_per_month"),
    _integer("month_starts"),  # the month of the org's calendar that the span lies in
    _integer("month_ends"),
    Column("saturation_milli", BigInteger, nullable=True),
    Column("estimated", Boolean, nullable=False),  # no gateway ran then
    _integer("gpu_microseconds"),
    _integer("gpu_nano_usd"),
    _integer("overhead_nano_usd"),
    Column("capacity_tokens", BigInteger, nullable=True),
    _integer("accrued_at"),
)
Index("pool_cost_starts", pool_cost.c.starts)

ALL_COLUMNS: tuple[str, ...] = tuple(usage_record.c.keys())
COLUMNS = ALL_COLUMNS[:-3]
