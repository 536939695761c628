"""`tollway demo`, from its header to its last table."""

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from gateway.demo import samples
from gateway.demo.books import check_secrecy, read_books
from gateway.demo.failure import DemoFailed
from gateway.demo.folder import demo_folder
from gateway.demo.report import DemoReport
from gateway.demo.samples import Sample
from gateway.demo.stage import GPT_4O, LLAMA_4, Stage, open_stage, refuse_taken_ports
from gateway.demo.traffic import Client, SampleOutcome
from gateway.metrics.logs import configure_logs

__all__ = ["DemoFailed", "Performance", "run_demo"]

# Background traffic is a sign of life, not a load: it ends before it uses up a budget.
BACKGROUND_REQUESTS = 500
BACKGROUND_SECONDS = 1.5
# Requests under way may end after Ctrl-C or the end of --seconds; the longest sample takes less.
GRACE_SECONDS = 2.0
HEALTH_SECONDS = 5.0


async def run_demo(*, port: int, admin_port: int, seconds: float | None, folder: Path | None) -> None:
    """Show everything, then serve until SIGINT or SIGTERM, or until `seconds` have passed.

    The ledger stays in `folder`; None: in `tollway-demo`, or one beside it that is free.

    Raises PortTaken before anything has started, and DemoFailed when something came out differently.
    """
    configure_logs("error")
    refuse_taken_ports(port, admin_port)
    with _stop_event(seconds) as stop, demo_folder(folder) as kept:
        report = DemoReport()
        async with open_stage(port, admin_port, kept) as stage:
            report.header(stage)
            async with Client(stage) as client:
                await Performance(stage, client, report, stop).run()
        report.heading("The ledger stays: all of it can be asked again")
        report.note(f"tollway usage --config {stage.config} --by feature")


@contextlib.contextmanager
def _stop_event(seconds: float | None) -> Iterator[asyncio.Event]:
    """Set by SIGINT, by SIGTERM, or after `seconds`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    timer = None if seconds is None else loop.call_later(seconds, stop.set)
    try:
        yield stop
    finally:
        if timer is not None:
            timer.cancel()
        for number in signals:
            loop.remove_signal_handler(number)


class Performance:
    """One performance. Every step ends early, in good order, once `stop` is set."""

    def __init__(self, stage: Stage, client: Client, report: DemoReport, stop: asyncio.Event) -> None:
        self._stage = stage
        self._client = client
        self._report = report
        self._stop = stop
        self._sent = 0
        self._confidential_ids: set[str] = set()
        self._began = time.monotonic()

    async def run(self) -> None:
        """The samples, the results, background traffic, and the results once more."""
        await self._unless_stopped(self.play)
        is_complete = not self._stop.is_set()
        if is_complete:
            await self._results(in_full=True)
            await self._unless_stopped(self._serve)
        elapsed = time.monotonic() - self._began
        self._report.heading(f"Stopped after {elapsed:.0f} s and {self._sent} requests")
        await self._results(in_full=not is_complete)

    async def _unless_stopped(self, step: Callable[[], Awaitable[None]]) -> None:
        """Run `step`; once stopped it has a moment to end by itself."""
        running = asyncio.ensure_future(step())
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((running,), timeout=GRACE_SECONDS)
        finally:
            for task in (running, stopping):
                task.cancel()
            await asyncio.wait((running, stopping))
        if not running.cancelled():
            running.result()

    # --- the samples ---

    async def play(self) -> None:
        """The samples alone. Raises DemoFailed when one is answered otherwise than it says."""
        for step in (self._triage, self._charts, self._contracts, self._support_agent, self._failover):
            if self._stop.is_set():
                return
            await step()

    async def _triage(self) -> None:
        await self._feature("Literature triage: text goes where it is cheapest", samples.literature_triage())

    async def _charts(self) -> None:
        await self._feature("Chart reading: a rule sends images to GPT-4o", samples.chart_reading())

    async def _contracts(self) -> None:
        await self._feature("Contract review: personal data stays home", samples.contract_review())

    async def _feature(self, heading: str, wanted: Sequence[Sample]) -> list[SampleOutcome]:
        """Send all of `wanted` at once, and show them in this order, each as soon as it is done."""
        self._report.heading(heading)
        tasks = [asyncio.create_task(self._send(sample), name=sample.title) for sample in wanted]
        try:
            return [self._show(await task) for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _support_agent(self) -> None:
        heading = "Support agent: a tool call on GPT-4o, chats on Llama 4"
        question, *_ = await self._feature(heading, [samples.order_question(), *samples.support_chats()])
        if question.tool_call is None:
            raise DemoFailed("GPT-4o was to call get_order_status, and did not")
        self._show(await self._send(samples.order_answer(question.tool_call)))

    async def _failover(self) -> None:
        first = self._stage.llama_4[0]
        first.set_knobs(healthy=False)
        try:
            chats = samples.support_chats()
            await self._feature("Llama 4 replica 1 breaks down; nobody notices but the operators", chats)
            await self._until_up(False)
            self._report.note("The health probe has taken replica 1 out.")
            self._show(await self._send(chats[0]))
        finally:
            first.set_knobs(healthy=True)
        await self._until_up(True)
        self._report.note("Replica 1 is well again and gets requests.")

    async def _until_up(self, wanted: bool) -> None:
        """Wait until the gateway knows how replica 1 is. Raises DemoFailed when it never does."""
        replica = self._stage.gateway.pipeline.rulebook.routes.fleet.replica_sets[LLAMA_4].replicas[0]
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                # Polled: nothing in a gateway waits for a replica's health, so nothing announces it.
                while replica.is_up != wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError as exc:
            raise DemoFailed(f"the gateway did not see replica 1 go {'up' if wanted else 'down'}") from exc

    def _show(self, outcome: SampleOutcome) -> SampleOutcome:
        """Print it. Raises DemoFailed when it is not what the sample says."""
        self._report.request(outcome, self._stage)
        if not outcome.is_as_expected:
            sample = outcome.sample
            raise DemoFailed(f"{sample.feature}, {sample.title}: {outcome.status} {outcome.problem}")
        return outcome

    async def _send(self, sample: Sample) -> SampleOutcome:
        outcome = await self._client.send(sample)
        self._sent += 1
        zones = self._stage.built.policy.zones[outcome.classified.privacy]
        if self._stage.built.policy.deployments[GPT_4O].zone not in zones:
            self._confidential_ids.add(outcome.request_id)
        return outcome

    # --- afterwards ---

    async def _serve(self) -> None:
        """Light background traffic up to its bound; after that only the user's own requests."""
        if self._stop.is_set():
            return
        self._report.heading("Serving, with a request now and then. Ctrl-C ends.")
        with self._report.status("  Background requests: 0") as line:
            rotation = itertools.cycle(samples.background())
            for number in range(1, BACKGROUND_REQUESTS + 1):
                if await self._stopped_within(BACKGROUND_SECONDS):
                    return
                await self._send(next(rotation))
                line.update(f"  Background requests: {number}")
            line.update(f"  Background requests: {BACKGROUND_REQUESTS}, and no more by themselves")
            await self._stop.wait()

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        return self._stop.is_set()

    async def _results(self, *, in_full: bool) -> None:
        books = await read_books(self._stage, self._client)
        self._report.results(books, check_secrecy(self._stage, self._confidential_ids), in_full=in_full)
