"""Alembic's entry point. The connection comes from `gateway.adapters.ledger.migrate`."""

from alembic import context

from gateway.adapters.ledger.tables import metadata

attributes = context.config.attributes

context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table=attributes["version_table"],
    transactional_ddl=True,  # SQLite can: a migration that dies leaves the database as it was
)
with context.begin_transaction():
    context.run_migrations()
