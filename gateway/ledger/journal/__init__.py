"""The journal in front of the ledger: after kill -9 every attempt that was sent is still known.

`opening.open_journaled_ledger` gives the `Ledger` port for the pipeline. See docs/decisions/0014.
"""
