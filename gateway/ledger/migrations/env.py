"""Alembic's entry point: over the connection that `gateway.ledger.revisions` hands in, or as SQL text.

PostgreSQL gets the text: its driver here is asyncpg, which Alembic cannot call.
"""

from alembic import context
from sqlalchemy import inspect

from gateway.ledger.revisions import ADOPT, LEAST_TABLE
from gateway.ledger.tables import metadata

attributes = context.config.attributes

if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        version_table=attributes["version_table"],
        transactional_ddl=False,  # whoever runs the text brings the transaction
        output_buffer=attributes["output"],
    )
else:
    context.configure(
        connection=attributes["connection"],
        target_metadata=metadata,
        version_table=attributes["version_table"],
        transactional_ddl=True,  # SQLite can: a migration that dies leaves the database as it was
    )
with context.begin_transaction():
    if not context.is_offline_mode() and inspect(attributes["connection"]).has_table(LEAST_TABLE):
        for statement in ADOPT:
            attributes["connection"].exec_driver_sql(statement)
    context.run_migrations()
