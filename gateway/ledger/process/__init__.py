"""The process that writes the ledger, its owner, and the connection of a worker to it."""
