"""What a folder's journals know of one request: attempts under way, and what is not committed yet.

Reads the segments of all workers, those that live and those that died, and changes nothing. Of each frame
only the bytes are looked at, unless the request's id is in them.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway.core.refused_request import RefusedRequest
from gateway.ledger.journal.folder import JournalFolder, segments_of
from gateway.ledger.journal.frames import (
    Damage,
    FrameKind,
    UnreadableRecord,
    read_frames,
    read_note,
)
from gateway.ledger.journal.reading import RowReader
from gateway.ledger.rows import ATTEMPT_ID, REQUEST_ID, Row


class Journalled(msgspec.Struct, frozen=True):
    """`ended` and `under_way` are rows by attempt; the latter as they would be presumed."""

    ended: Mapping[str, Row]
    under_way: Mapping[str, Row]
    refused: RefusedRequest | None


def search(folder: JournalFolder, request_id: str) -> Journalled:
    """What the journals in `folder` hold of the request. Raises OSError, but not for a missing folder."""
    found = _Search(request_id)
    if folder.path.exists():
        for worker in folder.workers():
            found.read(segments_of(folder.path, worker))
    return Journalled(found.ended, found.under_way, found.refused)


class _Search:
    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._bytes = request_id.encode()
        self.ended: dict[str, Row] = {}
        self.under_way: dict[str, Row] = {}
        self.refused: RefusedRequest | None = None

    def read(self, segments: list[Path]) -> None:
        """The journal of one worker."""
        reader = RowReader()
        for path in segments:
            with suppress(FileNotFoundError):  # removed meanwhile: all of it is committed
                self._read_segment(path.read_bytes(), reader)
        for row in reader.presumed():
            if self._is_of_request(row):
                self.under_way[str(row[ATTEMPT_ID])] = row

    def _read_segment(self, content: bytes, reader: RowReader) -> None:
        for frame in read_frames(content):
            if isinstance(frame, Damage):
                continue  # told of by the ledger's writer
            if frame.kind is not FrameKind.NAMES and self._bytes not in frame.payload:
                continue
            with suppress(UnreadableRecord):  # an end whose intent is gone: it is committed
                if frame.kind is FrameKind.NOTE:
                    told = read_note(frame)
                    if isinstance(told, RefusedRequest) and told.request_id == self._request_id:
                        self.refused = told
                elif (row := reader.take(frame)) is not None and self._is_of_request(row):
                    self.ended[str(row[ATTEMPT_ID])] = row

    def _is_of_request(self, row: Row) -> bool:
        """Another request may only name this one, in a tag."""
        return row[REQUEST_ID] == self._request_id
