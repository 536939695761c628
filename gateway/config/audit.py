"""Schema of `audit`: who signs the audit log, and whose signatures count."""

from pydantic import Field

from gateway.config.kinds import Secret, Section


class Audit(Section):
    signing_key: Secret | None = Field(
        default=None,
        description="seed of the Ed25519 key that signs the audit log, as `tollway audit keygen` prints it; "
        "left out: made once and kept in `<file>.audit-key` beside an SQLite ledger, else as "
        "`tollway.audit-key` in `server.journal_dir`",
    )
    trusted_keys: tuple[str, ...] = Field(
        default=(),
        description="public keys of other gateways, and of former keys, that `tollway audit` accepts too",
    )
