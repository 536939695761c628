"""Entering what an operator did by a command, which has no gateway's chain to write in."""

import getpass
import time
from typing import Any

from gateway import __version__
from gateway.core.audit import EntryKind, json_text
from gateway.ledger.audit.keys import Signer
from gateway.ledger.audit.trail import (
    HEADS,
    INSERT_ENTRY,
    SET_HEAD,
    AuditTrail,
    entry_values,
    head_values,
)
from gateway.ledger.journal.frames import Note
from gateway.ledger.url import database_of


def enter_act(url: str, signer: Signer, act: str, particulars: dict[str, Any]) -> None:
    """Enter `act` into the audit log of the ledger at `url`, as a chain of its own.

    Raises LedgerUnavailable.
    """
    trail = AuditTrail(signer, time.time, version=__version__)
    payload = json_text({"act": act, "by": _user(), **particulars})
    note = Note(EntryKind.ACT, time.time_ns() // 1000, payload)
    with database_of(url).maintenance() as maintenance, maintenance.begin(exclusive=False) as ledger:
        draft = trail.draft([], ledger.run(HEADS), [note])
        for entry in draft.entries:
            ledger.run(INSERT_ENTRY, *entry_values(entry))
        ledger.run(SET_HEAD, *head_values(draft.head))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
