"""Rollups, corrections, closed periods and price versions; the whole ledger on PostgreSQL."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DIMENSIONS = ("org", "team", "feature", "key", "model", "deployment", "zone", "privacy", "outcome")
COUNTS = ("attempts", "requests", "estimated_attempts")
TOKENS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
MONEY = ("cost_nano_usd", "unseen_nano_usd")
SUMS = (*COUNTS, *TOKENS, *MONEY)


def upgrade() -> None:
    sqlite = op.get_context().dialect.name == "sqlite"
    op.add_column("usage_record", sa.Column("kind", sa.Text, nullable=False, server_default="usage"))
    op.add_column("usage_record", sa.Column("corrects", sa.Text, nullable=True))
    op.add_column("usage_record", sa.Column("occurred_at", sa.BigInteger, nullable=True))
    some = sa.text("corrects IS NOT NULL")  # nothing to keep up for the rows that correct none
    op.create_index(
        "usage_record_corrects", "usage_record", ["corrects"], sqlite_where=some, postgresql_where=some
    )
    op.create_table(
        "usage_group",
        sa.Column("id", sa.Integer if sqlite else sa.BigInteger, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in DIMENSIONS),
    )
    if sqlite:
        op.create_index("usage_group_names", "usage_group", list(DIMENSIONS), unique=True)
    else:  # nine texts may be longer than PostgreSQL can index
        named = " || chr(31) || ".join(DIMENSIONS)
        op.execute(f"CREATE UNIQUE INDEX usage_group_names ON usage_group (md5({named}))")
    for grain in ("quarter", "day"):
        _rollup(f"usage_{grain}", *(sa.Column(name, sa.BigInteger, nullable=False) for name in SUMS))
        _rollup(
            f"counterfactual_{grain}",
            sa.Column("elsewhere", sa.Text, primary_key=True),
            sa.Column("nano_usd", sa.BigInteger, nullable=False),
        )
    op.create_table(
        "period_end",
        sa.Column("act", sa.Text, primary_key=True),
        sa.Column("before", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("done_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "price_version",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("provider", "model", "tier", "token_type")),
        sa.Column("effective_from", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("nano_usd_per_million", sa.BigInteger, nullable=False),
        sa.Column("entered_at", sa.BigInteger, nullable=False),
    )
    if sqlite:
        _fill_from_rows()


def _rollup(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        sa.Column("starts", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
        *columns,
        sqlite_with_rowid=False,
        postgresql_with={"fillfactor": 50},  # room to rewrite a bucket on its own page, batch after batch
    )


def _fill_from_rows() -> None:
    """What the writer of this revision would have kept for the rows that are there."""
    names = ", ".join(DIMENSIONS)
    same = " AND ".join(f"g.{name} = r.{name}" for name in DIMENSIONS)
    op.execute(f"INSERT INTO usage_group ({names}) SELECT DISTINCT {names} FROM usage_record")  # noqa: S608
    for grain, length in (("quarter", 900_000_000), ("day", 86_400_000_000)):
        starts = f"r.at - ((r.at % {length}) + {length}) % {length}"
        op.execute(
            f"INSERT INTO usage_{grain} SELECT {starts}, g.id, count(*), sum(r.attempt_id LIKE '%\\:1'), "  # noqa: S608
            f"sum(r.estimated), {', '.join(f'sum(r.{name})' for name in (*TOKENS, *MONEY))} "
            f"FROM usage_record r JOIN usage_group g ON {same} GROUP BY 1, 2"
        )
        op.execute(
            f"INSERT INTO counterfactual_{grain} SELECT {starts}, g.id, o.key, sum(o.value) "  # noqa: S608
            f"FROM usage_record r JOIN usage_group g ON {same}, json_each(r.counterfactual_nano_usd) o "
            "GROUP BY 1, 2, 3"
        )
