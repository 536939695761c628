"""What is said to the ledger's writer, and what it answers."""

from typing import Literal, TypeAlias

import msgspec

from gateway.ledger.writer import WriterLimits


class WriterSettings(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=True):
    """The first message of its owner: which ledger, and where its journals are. Holds secrets."""

    url: str
    journal_folder: str
    journal_name: str
    spill_folder: str | None
    signing_seed: str | None  # None: no audit log
    sync_each_commit: bool
    log_level: str
    limits: WriterLimits = WriterLimits()

    def __repr__(self) -> str:
        return "WriterSettings(...)"


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The owner's last message: nothing will come any more. Without it an owner that hangs up was killed."""


class Attach(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """This worker appends to the journal of this name from now on."""

    worker: str


class Detach(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """This worker appends no more. `is_empty`: it has removed its journal, all of which is committed."""

    is_empty: bool


class Pause(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Commit nothing of this worker beyond the number `after`, until Resume."""

    after: int


class Resume(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Commit what has waited, and what comes."""


class WriterRequest(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To be answered with a WriterReply of the same number.

    `open`: the ledger is open, and knows what dead workers have sent. `replay`: the latter alone.
    `flush`: everything up to the number `until` is committed, and what was read before.
    """

    number: int
    what: Literal["open", "replay", "flush"]
    until: int = 0


class WriterReply(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """`problem`: why it could not be done. `is_final`: waiting will not mend it."""

    number: int
    problem: str | None
    is_final: bool


class WriterCondition(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Of this worker's journal everything up to `committed` is in the ledger; `problem`: why no more is.

    `degraded` is what fails in the writer and keeps no row from the ledger. `is_disk_full`: that is the
    problem.
    """

    committed: int
    problem: str | None
    degraded: tuple[str, ...] = ()
    is_disk_full: bool = False


ToWriter: TypeAlias = Attach | Detach | Pause | Resume | WriterRequest
FromWriter: TypeAlias = WriterReply | WriterCondition
FromOwner: TypeAlias = WriterSettings | Stop
