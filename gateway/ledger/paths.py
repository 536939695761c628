"""Where the files of a ledger stand: beside its SQLite file, or in the working directory for a server."""

import hashlib
from pathlib import Path

import msgspec

SPILL_FOLDER = Path("tollway-ledger")
JOURNAL_FOLDER = Path("tollway.journal")
KEY_FILE = "tollway.audit-key"


class LedgerPaths(msgspec.Struct, frozen=True):
    """`name` is that of the database; `folder` the one it stands in, None for a database of a server.

    `identity` tells ledgers apart whose journals share a folder. An SQLite file has its name alone: a ledger
    that is moved together with its journal is still the same one.
    """

    name: str
    identity: str
    folder: Path | None = None

    @property
    def spill_folder(self) -> Path:
        """Where spill files stand, unless told otherwise."""
        return self.folder or SPILL_FOLDER

    @property
    def journal_folder(self) -> Path:
        """Where journals stand, unless told otherwise."""
        return JOURNAL_FOLDER if self.folder is None else self.folder / f"{self.name}.journal"

    @property
    def journal_name(self) -> str:
        """What the files of its journals begin with."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:12]

    def key_file(self, journal: Path | None) -> Path:
        """Where the audit log's key is kept when none is configured.

        For a database of a server that is the configured `journal` folder, which outlives the process too.
        """
        if self.folder is not None:
            return self.folder / f"{self.name}.audit-key"
        return (journal or Path()) / KEY_FILE
