"""Usage as a map from unit to amount, flags, and prices of other units.

Release 0.1.0 may go on beside it, and come back: it reads and writes by the names of columns, those that are
new have defaults, and `ledger_revision` goes on naming the revision that it knows. What it writes has no map;
its columns tell all that it knows of.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = {"usage": "{}", "flags": "", "reported": "{}"}


def upgrade() -> None:
    for name, default in COLUMNS.items():
        op.add_column("usage_record", sa.Column(name, sa.Text, nullable=False, server_default=default))
    for grain in ("quarter", "day"):
        op.create_table(
            f"unit_{grain}",
            sa.Column("starts", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("unit", sa.Text, primary_key=True),
            sa.Column("amount", sa.BigInteger, nullable=False),
            sqlite_with_rowid=False,
            postgresql_with={"fillfactor": 50},  # as the other rollups: room to rewrite a bucket on its page
        )
    op.create_table(
        "price_terms",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("provider", "model", "tier")),
        sa.Column("effective_from", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("terms", sa.Text, nullable=False),
    )
    # The least revision that a version has to know. A migration that an older one cannot live with sets it.
    op.execute("CREATE TABLE IF NOT EXISTS ledger_revision (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    op.execute("INSERT INTO ledger_revision SELECT '0005' WHERE NOT EXISTS (SELECT 1 FROM ledger_revision)")
