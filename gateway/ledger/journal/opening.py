"""The journal in front of the ledger: after kill -9 every attempt that was sent is still known.

`open_journaled_ledger(url)` gives the `Ledger` port for the pipeline. See docs/decisions/0014.
"""

from collections.abc import Callable
from pathlib import Path

from gateway.http.flow_control import WriteCoalescer
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.ledger import QUEUE_ROWS, JournaledLedger, Sync
from gateway.ledger.paths import LedgerPaths
from gateway.ledger.process.messages import WriterSettings
from gateway.ledger.url import database_of
from gateway.supervised import TaskRegistry


def open_journaled_ledger(
    url: str,
    address: Callable[[], Path],
    *,
    folder: Path | None = None,
    sync: Sync = "off",
    queue_rows: int = QUEUE_ROWS,
    coalescer: WriteCoalescer | None = None,
    tasks: TaskRegistry | None = None,
) -> JournaledLedger:
    """The ledger at `url` behind a journal, not yet started. Raises LedgerUnavailable for a wrong URL.

    `address` is where its writer listens. Without `folder` the journal stands beside an SQLite file, as
    `<file>.journal/`, and for any other database in `tollway.journal/`. Gateways with the same ledger may
    share a folder.
    """
    journal = journal_folder(database_of(url).paths, folder)
    return JournaledLedger(
        journal, address, queue_rows=queue_rows, sync=sync, coalescer=coalescer, tasks=tasks
    )


def writer_settings(
    url: str,
    *,
    folder: Path | None = None,
    sync: Sync = "off",
    signing_seed: str | None = None,
    log_level: str = "info",
) -> WriterSettings:
    """What the writer of that ledger has to know. Raises LedgerUnavailable for a wrong URL."""
    paths = database_of(url).paths
    journal = journal_folder(paths, folder)
    beside_file = folder is None and paths.folder is not None
    return WriterSettings(
        url=url,
        journal_folder=str(journal.path),
        journal_name=paths.journal_name,
        spill_folder=None if beside_file else str(journal.path),
        signing_seed=signing_seed,
        # What is committed leaves the journal: a power cut that spares this must spare that too.
        sync_each_commit=sync == "batch",
        log_level=log_level,
    )


def folders_on_disk(url: str, folder: Path | None) -> list[Path]:
    """What fills the disk: where the database's file is, if it is one, and where the journals are."""
    paths = database_of(url).paths
    found = [] if paths.folder is None else [paths.folder]
    return [*found, journal_folder(paths, folder).path]


def journal_folder(paths: LedgerPaths, configured: Path | None) -> JournalFolder:
    """Where the journals of the ledger with `paths` are."""
    return JournalFolder(configured or paths.journal_folder, paths.journal_name)
