"""Reports read the databases over which the ledger's specification runs."""

from tests.ledger.conftest import sqlite

__all__ = ["sqlite"]
