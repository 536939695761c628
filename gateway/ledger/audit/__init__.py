"""The audit log: what left, where it went, and what operators did, as signed hash chains in the ledger.

`trail` writes, within the transactions of the ledger's rows; `verify` reads and checks; `acts` enters what a
command did. See docs/decisions/0030.
"""
