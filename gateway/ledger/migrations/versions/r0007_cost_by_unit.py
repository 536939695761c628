"""What each unit of usage cost, and at which rate.

Older versions may go on beside it: they read and write by the names of columns, those that are new have
defaults, and the least revision stays what it is. What they write has no cost by unit, and reports say so.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MAPS = ("rates", "unit_nano_usd")
COSTS = ("input_nano_usd", "cached_input_nano_usd", "output_nano_usd", "reasoning_nano_usd")
GRAINS = ("quarter", "day")


def upgrade() -> None:
    for name in MAPS:
        op.add_column("usage_record", sa.Column(name, sa.Text, nullable=False, server_default="{}"))
    for table in ("usage_record", *(f"usage_{grain}" for grain in GRAINS)):
        for name in COSTS:
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    for grain in GRAINS:
        op.create_table(
            f"unit_cost_{grain}",
            sa.Column("starts", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("unit", sa.Text, primary_key=True),
            sa.Column("nano_usd", sa.BigInteger, nullable=False),
            sqlite_with_rowid=False,
            postgresql_with={"fillfactor": 50},  # as the other rollups: room to rewrite a bucket on its page
        )
