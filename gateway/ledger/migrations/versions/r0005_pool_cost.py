"""What the own GPUs of each deployment cost, busy or not."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pool_cost",
        sa.Column("deployment", sa.Text, primary_key=True),
        sa.Column("starts", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("ends", sa.BigInteger, nullable=False),
        sa.Column("gpu", sa.Text, nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in (
                "replicas",
                "gpus",
                "nano_usd_per_gpu_hour",
                "overhead_nano_per_month",
                "month_starts",
                "month_ends",
            )
        ),
        sa.Column("saturation_milli", sa.BigInteger, nullable=True),
        sa.Column("estimated", sa.Boolean, nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("gpu_microseconds", "gpu_nano_usd", "overhead_nano_usd")
        ),
        sa.Column("capacity_tokens", sa.BigInteger, nullable=True),
        sa.Column("accrued_at", sa.BigInteger, nullable=False),
    )
    op.create_index("pool_cost_starts", "pool_cost", ["starts"])
