"""What can go wrong with the ledger, in the words of whoever runs it."""


class LedgerUnavailable(Exception):
    """The ledger cannot be read or written now. The message names the database and says what to do."""


class LedgerUnusable(LedgerUnavailable):
    """Waiting will not mend it: a wrong password or path, no such database, a newer version's ledger."""
