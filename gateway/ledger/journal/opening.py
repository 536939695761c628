"""The journal in front of the ledger: after kill -9 every attempt that was sent is still known.

`open_journaled_ledger(url)` gives the `Ledger` port for the pipeline. See docs/decisions/0014.
"""

from pathlib import Path

from gateway.http.flow_control import WriteCoalescer
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.ledger import JournaledLedger, Sync
from gateway.ledger.opening import open_ledger
from gateway.ledger.paths import LedgerPaths
from gateway.ledger.url import database_of
from gateway.ledger.writer import WriterLimits
from gateway.supervised import TaskRegistry


def open_journaled_ledger(
    url: str,
    *,
    folder: Path | None = None,
    sync: Sync = "off",
    queue_rows: int = WriterLimits().queue_rows,
    coalescer: WriteCoalescer | None = None,
    trail: AuditTrail | None = None,
    tasks: TaskRegistry | None = None,
) -> JournaledLedger:
    """The ledger at `url` behind a journal, not yet started. Raises LedgerUnavailable for a wrong URL.

    Without `folder` the journal stands beside an SQLite file, as `<file>.journal/`, and for any other
    database in `tollway.journal/`. Gateways that write to the same ledger may share a folder.
    """
    paths = database_of(url).paths
    journal = journal_folder(paths, folder)
    beside_file = folder is None and paths.folder is not None
    spill_folder = None if beside_file else journal.path
    limits = WriterLimits(queue_rows=queue_rows)
    # What is committed leaves the journal: a power cut that spares this must spare that too.
    is_synced = sync == "batch"
    writer = open_ledger(
        url, spill_folder=spill_folder, limits=limits, trail=trail, sync_each_commit=is_synced, tasks=tasks
    )
    return JournaledLedger(writer, journal, sync=sync, coalescer=coalescer, tasks=tasks)


def journal_folder(paths: LedgerPaths, configured: Path | None) -> JournalFolder:
    """Where the journals of the ledger with `paths` are."""
    return JournalFolder(configured or paths.journal_folder, paths.journal_name)
