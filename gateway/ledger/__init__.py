"""The ledger: one row for each attempt, in a SQL database, append-only.

`opening.open_ledger` gives the writer for the pipeline, `reports.usage_by` a report. `database.Database` is
what differs between `sqlite/` and `postgres/`; `url.database_of` chooses.
"""
