"""The journal within a whole gateway: first the intent, then the request; no intent, no request."""

import asyncio
import errno
from pathlib import Path
from typing import Any

from gateway.core.record import Outcome
from gateway.ledger.journal.frames import Frame, FrameKind, read_frames
from gateway.simulators.knobs import Knobs
from tests.core.halves import ended_by_name, sent_by_name
from tests.e2e.harness import Harness, chat, gateway_over, simulators
from tests.ledger.ledger_records import run, until

SLOW = Knobs(ttft_ms=60_000)


def journalled(harness: Harness, kind: FrameKind) -> list[str]:
    """Ids of the attempts in the journal's frames of this kind."""
    folder = harness.ledger.with_name(f"{harness.ledger.name}.journal")
    content = b"".join(path.read_bytes() for path in sorted(folder.glob("*.journal2")))
    frames = [item for item in read_frames(content) if isinstance(item, Frame) and item.kind is kind]
    read = sent_by_name if kind is FrameKind.INTENT else ended_by_name
    return [read(frame.payload)["attempt_id"] for frame in frames]


def break_disk(harness: Harness) -> Any:
    """The disk takes nothing more, in no segment. Returns what makes it whole again."""
    journal = harness.gateway.parts.ledger._journal  # type: ignore[union-attr]
    files, write = journal._files, journal._files.write

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal._current._write = journal._next._write = files.write = refuse

    def mend() -> None:
        files.write = write

    return mend


def scenario(tmp_path: Path, steps: Any, external: Knobs | None = None) -> None:
    """`steps` on a gateway of their own. It may log errors: a disk that fails is one."""

    async def bounded() -> None:
        async with (
            simulators(external) as (hosted, replicas),
            gateway_over(hosted, replicas, tmp_path) as harness,
        ):
            await steps(harness)

    run(bounded())


def test_the_intent_is_in_the_file_when_the_upstream_sees_the_request(tmp_path: Path) -> None:
    async def steps(harness: Harness) -> None:
        request = asyncio.create_task(harness.post(chat()))
        await harness.arrived()
        [attempt] = harness.attempts()
        assert journalled(harness, FrameKind.INTENT) == [attempt.attempt_id]
        assert journalled(harness, FrameKind.FINAL) == []
        harness.external.set_knobs(ttft_ms=0)
        request.cancel()
        await harness.settled()
        assert journalled(harness, FrameKind.FINAL) == [attempt.attempt_id]
        [row] = await harness.rows()
        assert row["outcome"] == Outcome.CLIENT_DISCONNECT

    scenario(tmp_path, steps, external=SLOW)


def test_each_attempt_of_a_request_has_its_own_intent(tmp_path: Path) -> None:
    async def steps(harness: Harness) -> None:
        harness.replicas[0].set_knobs(fail_next=1)
        harness.replicas[1].set_knobs(fail_next=1)
        assert (await harness.post(chat(model="auto"))).status_code == 200
        rows = await harness.rows()
        assert len(rows) == 3
        assert journalled(harness, FrameKind.INTENT) == [row["attempt_id"] for row in rows]
        assert journalled(harness, FrameKind.FINAL) == [row["attempt_id"] for row in rows]

    scenario(tmp_path, steps)


def test_what_cannot_be_written_down_is_not_sent(tmp_path: Path) -> None:
    async def steps(harness: Harness) -> None:
        mend = break_disk(harness)
        answer = await harness.post(chat())
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert harness.attempts() == []
        assert harness.stored_rows() == []
        assert await harness.held_nano() == 0
        assert harness.in_flight() == 0
        ready = await harness.http.get(f"{harness.gateway.admin_url}/readyz")
        assert ready.status_code == 503
        [reason] = ready.json()["reasons"]
        assert "No space left on device" in reason
        mend()
        await until(lambda: not harness.gateway.unready_reasons())
        assert await harness.rows() == []  # only now: what the audit log has to say waited for the disk too
        assert (await harness.post(chat())).status_code == 200

    scenario(tmp_path, steps)


def test_an_answer_under_way_when_the_disk_fills_is_delivered_and_booked(tmp_path: Path) -> None:
    async def steps(harness: Harness) -> None:
        request = asyncio.create_task(harness.post(chat()))
        await harness.arrived()
        mend = break_disk(harness)
        assert (await request).status_code == 200
        mend()  # its end has waited in memory
        [row] = await harness.rows()
        assert row["outcome"] == Outcome.SUCCESS

    scenario(tmp_path, steps, external=Knobs(ttft_ms=100))
