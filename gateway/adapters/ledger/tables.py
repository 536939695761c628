"""The ledger's table as SQLAlchemy Core sees it. The migrations, not this file, make it.

Append-only: one row per attempt, corrections are new rows. Money in integer nano-USD, `at` in UTC
microseconds since 1970, durations in milliseconds. Columns stand in the order of `rows.row_of`.
"""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, MetaData, Table, Text

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _optional_text(name: str) -> Column[str]:
    return Column(name, Text, nullable=True)


def _integer(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


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
)

# Reports read a span of time and keep some features. Rows arrive in order of time, so this index grows at its
# right edge and costs next to nothing; an index that led with the feature cost 20% more per row written.
Index("usage_record_at_feature", usage_record.c.at, usage_record.c.feature)

COLUMNS: tuple[str, ...] = tuple(usage_record.c.keys())
