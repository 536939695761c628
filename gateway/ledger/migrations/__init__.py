"""Alembic migrations of the ledger, inside the package so that the wheel carries them."""
