"""The usage record: one row per attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    postgres = op.get_context().dialect.name == "postgresql"
    op.create_table(
        "usage_record",
        sa.Column("attempt_id", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("org", sa.Text, nullable=False),
        sa.Column("team", sa.Text, nullable=False),
        sa.Column("feature", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("dispatched_model", sa.Text, nullable=False),
        sa.Column("reported_model", sa.Text, nullable=True),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("deployment", sa.Text, nullable=False),
        sa.Column("replica", sa.Text, nullable=False),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("privacy", sa.Text, nullable=False),
        sa.Column("modalities", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("status", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.Text, nullable=True),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("input_text_tokens", sa.BigInteger, nullable=False),
        sa.Column("input_image_tokens", sa.BigInteger, nullable=False),
        sa.Column("input_audio_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_text_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_audio_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("service_tier", sa.Text, nullable=True),
        sa.Column("price_version", sa.Text, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("counterfactual_nano_usd", sa.Text, nullable=False),
        sa.Column("held_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("unseen_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("ttft_ms", sa.Double, nullable=True),
        sa.Column("duration_ms", sa.Double, nullable=False),
        sa.Column("upstream_request_id", sa.Text, nullable=True),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("policy_version", sa.Text, nullable=False),
        # A primary key over partitions must hold the partition's column. With the time first, rows are also
        # found by it, and the index grows at its right edge.
        sa.PrimaryKeyConstraint("at", "attempt_id") if postgres else sa.PrimaryKeyConstraint("attempt_id"),
        postgresql_partition_by="RANGE (at)",
    )
    if postgres:
        _finish_on_postgres()
    else:
        op.create_index("usage_record_at_feature", "usage_record", ["at", "feature"])


def _finish_on_postgres() -> None:
    # Keeps the ids unique over all partitions, whatever time a second row of the same attempt names.
    op.create_table(
        "usage_attempt",
        sa.Column("attempt_id", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    # NaN is greater than infinity there, and would spoil every sum.
    op.create_check_constraint("usage_record_duration", "usage_record", "duration_ms < 'infinity'")
    op.create_check_constraint("usage_record_ttft", "usage_record", "ttft_ms < 'infinity'")
