"""Reading the audit log and finding what does not fit: changed, missing, moved, cut off, or signed by others.

Everything is read in the order of the chains, in pages: memory grows by a number for each attempt only.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec
from sqlalchemy import func, select

from gateway.core.audit import GENESIS, Entry, EntryKind, Head, Opening, Receipt, link
from gateway.ledger.audit.keys import is_signed
from gateway.ledger.database import ReadTransaction
from gateway.ledger.tables import audit_entry, audit_head, period_end, usage_record
from gateway.ledger.url import database_of

PAGE_ENTRIES = 200
PAGE_ROWS = 500  # ids in one question to the database
FINDINGS_CEILING = 1_000

_FIELDS = tuple(name for name in Receipt.__struct_fields__)
_decode_opening = msgspec.json.Decoder(Opening).decode
_decode_receipts = msgspec.json.Decoder(list[Receipt]).decode


class Finding(msgspec.Struct, frozen=True):
    """Something wrong at entry `seq` of `chain`; `chain` is empty where it is a row of the ledger."""

    chain: str
    seq: int
    problem: str


class Verified(msgspec.Struct, kw_only=True):
    """What was read. `rows_before` are rows from before there was a log, `keys` public keys that sign."""

    chains: int = 0
    entries: int = 0
    receipts: int = 0
    rows: int = 0
    rows_before: int = 0
    keys: list[str] = []
    findings: list[Finding] = []
    more_findings: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(
    url: str,
    trusted: Collection[str] = (),
    visit: Callable[[Receipt], None] | None = None,
    visit_act: Callable[[Entry], None] | None = None,
) -> Verified:
    """Check the whole log of the ledger at `url`. With `trusted` no other public keys may sign.

    `visit` is called with each attempt's receipt once, `visit_act` with every entry that is about none.
    Raises LedgerUnavailable.
    """
    with database_of(url).reading() as ledger:
        return _Verification(ledger, trusted, visit, visit_act).run()


class _Verification:
    def __init__(
        self,
        ledger: ReadTransaction,
        trusted: Collection[str],
        visit: Callable[[Receipt], None] | None,
        visit_act: Callable[[Entry], None] | None,
    ) -> None:
        self._ledger = ledger
        self._trusted = frozenset(trusted)
        self._visit = visit
        self._visit_act = visit_act
        self._found = Verified(keys=[], findings=[])
        self._anchors: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self._seen: set[int] = set()  # hashes of the ids that have a receipt
        self._unlike: dict[str, Finding] = {}  # by attempt: no receipt so far that its row is like
        self._pruned = self._pruned_before()

    def run(self) -> Verified:
        heads = {
            chain: Head(chain, seq, digest) for chain, seq, digest in self._ledger.fetch(select(audit_head))
        }
        self._collect_anchors()
        chains: set[str] = set()
        for chain in self._chains():
            chains.add(chain)
            self._check_chain(chain, heads.get(chain))
        for missing in sorted((set(heads) | set(self._anchors)) - chains):
            self._note(missing, 0, "the whole chain is missing")
        for finding in self._unlike.values():
            self._note(finding.chain, finding.seq, finding.problem)
        self._check_rows()
        return self._found

    # --- chains ---

    def _chains(self) -> list[str]:
        chain = audit_entry.c.chain
        return [name for (name,) in self._ledger.fetch(select(chain).distinct().order_by(chain))]

    def _collect_anchors(self) -> None:
        """What openings say of the chains before them: these must still have come so far."""
        row = audit_entry.c
        for (payload,) in self._ledger.fetch(select(row.payload).where(row.kind == EntryKind.OPENED.value)):
            try:
                for head in _decode_opening(payload).heads:
                    self._anchors[head.chain][head.seq] = head.hash
            except msgspec.MsgspecError:
                continue  # told where its chain is checked

    def _entries(self, chain: str) -> Iterator[Entry]:
        row, after = audit_entry.c, 0
        while True:
            query = select(audit_entry).where(row.chain == chain, row.seq > after).order_by(row.seq)
            page = [Entry(*values) for values in self._ledger.fetch(query.limit(PAGE_ENTRIES))]
            yield from page
            if len(page) < PAGE_ENTRIES:
                return
            after = page[-1].seq

    def _check_chain(self, chain: str, head: Head | None) -> None:
        self._found.chains += 1
        previous, expected, public_key = GENESIS, 1, ""
        anchors = self._anchors.get(chain, {})
        for entry in self._entries(chain):
            self._found.entries += 1
            if entry.seq != expected:
                missing = f"{expected}" if entry.seq == expected + 1 else f"{expected} to {entry.seq - 1}"
                self._note(chain, expected, f"entry {missing} is missing")
            if entry.seq == 1:
                public_key = self._opened(entry)
            digest = link(previous, chain, entry.seq, entry.at, entry.kind, entry.payload)
            if digest != entry.hash:
                if entry.seq == expected:  # else the gap before it is why
                    self._note(chain, entry.seq, "does not follow from the entry before it: one was changed")
            elif not is_signed(public_key, entry.hash, entry.signature):
                self._note(chain, entry.seq, "its signature is not of the key that opened the chain")
            if anchors.get(entry.seq, entry.hash) != entry.hash:
                self._note(chain, entry.seq, "another chain remembers it with another hash")
            self._read(entry)
            previous, expected = entry.hash, entry.seq + 1
        last = max([*anchors, 0 if head is None else head.seq])
        if last >= expected:
            self._note(chain, expected, f"cut off: it once went on to entry {last}")
        if head is None:
            self._note(chain, 0, "its head is missing")
        elif head.seq == expected - 1 and head.hash != previous:
            self._note(chain, head.seq, "its head has another hash")
        elif head.seq < expected - 1:
            self._note(chain, head.seq, "its head is older than its last entry")

    def _opened(self, entry: Entry) -> str:
        """The public key of the chain; empty when the first entry does not say it."""
        try:
            public_key = _decode_opening(entry.payload).public_key
        except msgspec.MsgspecError:
            self._note(entry.chain, 1, "the first entry does not open the chain")
            return ""
        if public_key not in self._found.keys:
            self._found.keys.append(public_key)
        if self._trusted and public_key not in self._trusted:
            self._note(entry.chain, 1, f"signed with an unknown key: {public_key}")
        return public_key

    def _read(self, entry: Entry) -> None:
        if entry.kind != EntryKind.ATTEMPTS:
            if self._visit_act is not None:
                self._visit_act(entry)
            return
        try:
            receipts = _decode_receipts(entry.payload)
        except msgspec.MsgspecError:
            self._note(entry.chain, entry.seq, "its receipts cannot be read")
            return
        for start in range(0, len(receipts), PAGE_ROWS):
            self._check_receipts(entry, receipts[start : start + PAGE_ROWS])

    # --- receipts against rows ---

    def _check_receipts(self, entry: Entry, receipts: Sequence[Receipt]) -> None:
        """An attempt that was replayed may have several; its row must be as one of them says."""
        rows = self._rows_of([receipt.attempt_id for receipt in receipts])
        for receipt in receipts:
            attempt_id = receipt.attempt_id
            row = rows.get(attempt_id)
            if hash(attempt_id) in self._seen:
                continue
            if row is None and receipt.at >= self._pruned:
                self._note(entry.chain, entry.seq, f"the row of attempt {attempt_id} is missing")
            elif row is not None and row != receipt:
                names = [name for name in _FIELDS if getattr(receipt, name) != getattr(row, name)]
                problem = f"the row of attempt {attempt_id} differs from its receipt in {', '.join(names)}"
                self._unlike[attempt_id] = Finding(entry.chain, entry.seq, problem)
                continue
            self._take(receipt)

    def _take(self, receipt: Receipt) -> None:
        self._unlike.pop(receipt.attempt_id, None)
        self._seen.add(hash(receipt.attempt_id))
        self._found.receipts += 1
        if self._visit is not None:
            self._visit(receipt)

    def _rows_of(self, ids: Sequence[str]) -> dict[str, Receipt]:
        row = usage_record.c
        # A row that its closed period did not take keeps the true time in `occurred_at`.
        values = (func.coalesce(row.occurred_at, row.at) if name == "at" else row[name] for name in _FIELDS)
        query = select(*values).where(row.attempt_id.in_(ids))
        return {found[0]: Receipt(*found) for found in self._ledger.fetch(query)}

    def _check_rows(self) -> None:
        """Every row has a receipt, but those from before there was an audit log."""
        row, after = usage_record.c, ""
        ((began,),) = self._ledger.fetch(select(func.min(audit_entry.c.at)))
        query = select(row.attempt_id, row.at).where(row.corrects.is_(None)).order_by(row.attempt_id)
        while True:
            page = self._ledger.fetch(query.where(row.attempt_id > after).limit(10 * PAGE_ROWS))
            for attempt_id, at in page:
                self._found.rows += 1
                if hash(attempt_id) in self._seen or attempt_id in self._unlike:
                    continue
                if began is None or at < began:
                    self._found.rows_before += 1
                else:
                    self._note("", 0, f"attempt {attempt_id} has no receipt")
            if len(page) < 10 * PAGE_ROWS:
                return
            after = page[-1][0]

    def _pruned_before(self) -> int:
        """Rows from before this moment were deleted as a period, which keeps their receipts."""
        query = select(func.max(period_end.c.before)).where(period_end.c.act == "pruned")
        ((before,),) = self._ledger.fetch(query)
        return 0 if before is None else int(before)

    def _note(self, chain: str, seq: int, problem: str) -> None:
        if len(self._found.findings) < FINDINGS_CEILING:
            self._found.findings.append(Finding(chain, seq, problem))
        else:
            self._found.more_findings += 1
