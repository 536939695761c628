"""Finance reads and books over the databases of the ledger's specification."""

from tests.ledger.conftest import database, postgres, postgres_url, sqlite

__all__ = ["database", "postgres", "postgres_url", "sqlite"]
