"""The journal in front of the ledger: after kill -9 every attempt that was sent is still known.

`open_journaled_ledger(url)` gives the `Ledger` port for the pipeline. See docs/decisions/0014.
"""

import hashlib
from pathlib import Path

from sqlalchemy import make_url

from gateway.http.write_coalescer import WriteCoalescer
from gateway.ledger.address import SqliteAddress, parse
from gateway.ledger.audit.trail import AuditTrail
from gateway.ledger.journal.folder import JournalFolder
from gateway.ledger.journal.ledger import JournaledLedger, Sync
from gateway.ledger.opening import open_ledger
from gateway.ledger.writer import WriterLimits

__all__ = ["JournaledLedger", "open_journaled_ledger"]

_FOLDER = Path("tollway.journal")


def open_journaled_ledger(
    url: str,
    *,
    folder: Path | None = None,
    sync: Sync = "off",
    queue_rows: int = WriterLimits().queue_rows,
    coalescer: WriteCoalescer | None = None,
    trail: AuditTrail | None = None,
) -> JournaledLedger:
    """The ledger at `url` behind a journal, not yet started. Raises LedgerUnavailable for a wrong URL.

    Without `folder` the journal stands beside an SQLite file, as `<file>.journal/`, and for any other
    database in `tollway.journal/`. Gateways that write to the same ledger may share a folder.
    """
    beside_file = folder is None and isinstance(parse(url), SqliteAddress)
    journal = journal_folder(url, folder)
    spill_folder = None if beside_file else journal.path
    limits = WriterLimits(queue_rows=queue_rows)
    # What is committed leaves the journal: a power cut that spares this must spare that too.
    is_synced = sync == "batch"
    writer = open_ledger(
        url, spill_folder=spill_folder, limits=limits, trail=trail, sync_each_commit=is_synced
    )
    return JournaledLedger(writer, journal, sync=sync, coalescer=coalescer)


def journal_folder(url: str, configured: Path | None) -> JournalFolder:
    """Where the journals of the ledger at `url` are."""
    address = parse(url)
    if isinstance(address, SqliteAddress):
        file = address.path
        # By its name alone: a ledger that is moved together with its journal is still the same one.
        return JournalFolder(configured or file.with_name(f"{file.name}.journal"), _name(file.name))
    parsed = make_url(url)
    place = f"{parsed.host}:{parsed.port}/{parsed.database}"
    return JournalFolder(configured or _FOLDER, _name(place))


def _name(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
