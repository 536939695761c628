"""The journal in front of the ledger: after kill -9 every attempt that was sent is still known.

`open_journaled_ledger(url)` gives the `Ledger` port for the pipeline. See docs/decisions/0014.
"""

import hashlib
from pathlib import Path

from sqlalchemy import make_url

from gateway.adapters.journal.folder import JournalFolder
from gateway.adapters.journal.ledger import JournaledLedger, Sync
from gateway.adapters.ledger import open_ledger
from gateway.outbox import Outbox

__all__ = ["JournaledLedger", "open_journaled_ledger"]

_FOLDER = Path("tollway.journal")


def open_journaled_ledger(
    url: str, *, folder: Path | None = None, sync: Sync = "off", outbox: Outbox | None = None
) -> JournaledLedger:
    """The ledger at `url` behind a journal, not yet started. Raises LedgerUnavailable for a wrong URL.

    Without `folder` the journal stands beside an SQLite file, as `<file>.journal/`, and for any other
    database in `tollway.journal/`. Gateways that write to the same ledger may share a folder.
    """
    writer = open_ledger(url)
    return JournaledLedger(writer, journal_folder(url, folder), sync=sync, outbox=outbox)


def journal_folder(url: str, configured: Path | None) -> JournalFolder:
    """Where the journals of the ledger at `url` are."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = Path(parsed.database or "")
        # By its name alone: a ledger that is moved together with its journal is still the same one.
        return JournalFolder(configured or file.with_name(f"{file.name}.journal"), _name(file.name))
    place = f"{parsed.host}:{parsed.port}/{parsed.database}"
    return JournalFolder(configured or _FOLDER, _name(place))


def _name(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
