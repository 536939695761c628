"""Requests that were refused, kept for some days.

Older releases neither read nor write the table: what they refuse is in no record. The positions of journals,
which belonged to no revision until now, are part of this one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TEXTS = (
    "code",
    "refused_by",
    "param",
    "scope",
    "limit_name",
    "message",
    "endpoint",
    "org",
    "team",
    "feature",
    "key",
    "model",
    "privacy",
    "deployment",
)


def upgrade() -> None:
    op.create_table(
        "refused_request",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in TEXTS),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
    )
    op.create_index("refused_request_at", "refused_request", ["at"])
    op.execute(
        "CREATE TABLE IF NOT EXISTS journal_position "
        "(worker TEXT NOT NULL PRIMARY KEY, committed BIGINT NOT NULL)"
    )
