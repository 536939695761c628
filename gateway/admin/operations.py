"""What operators ask a running gateway over its admin port: decisions, reports, reloads."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from fastapi import APIRouter

from gateway.admin.explain import explain_router
from gateway.admin.reload import ConfigProblem, ReloadAnswer, ReloadRefusal, reload_router
from gateway.admin.requests import requests_router
from gateway.admin.tco import TcoQuestion, tco_router
from gateway.admin.usage import UsageQuery, usage_router
from gateway.config.build import Built
from gateway.core.errors import InvalidRequest, RequestNotFound, Unavailable
from gateway.finance.tabular import ParquetMissing
from gateway.finance.tco.compare import TcoRows
from gateway.finance.tco.question import TcoPeriod, WrongTime, answer
from gateway.finance.tco.what_if import WrongWhatIf
from gateway.finance.usage_report import UsageQuestion, usage_document, usage_rows
from gateway.ledger.dimensions import Unanswerable
from gateway.ledger.errors import LedgerUnavailable
from gateway.ledger.journal.ledger import JournaledLedger
from gateway.ledger.requests import find_request, nothing_known
from gateway.policy.explain import DecisionQuestion, Explainer, Explanation
from gateway.policy.rollout.reloader import How, Reloader, ReloadRefused, Result, problem_fields
from gateway.ports import Clock
from gateway.proxy.pipeline import Pipeline

LEDGER_RETRY_SECONDS = 5.0


class Operations:
    """Answers in the words of the admin API."""

    def __init__(
        self,
        pipeline: Pipeline,
        ledger: JournaledLedger,
        built: Callable[[], Built],
        book_pools: Callable[[], Awaitable[None]],
        reloader: Reloader | None,
        clock: Clock,
    ) -> None:
        """`built` gives the configuration in force; `book_pools` books what own GPUs cost until now."""
        self._pipeline = pipeline
        self._ledger = ledger
        self._built = built
        self._book_pools = book_pools
        self._reloader = reloader
        self._clock = clock

    def routers(self) -> list[APIRouter]:
        """The routes of the admin port that ask for them."""
        routers = [explain_router(self.explain, lambda: self._pipeline.rulebook.max_messages)]
        routers.append(usage_router(self.usage))
        routers.append(tco_router(self.tco))
        routers.append(requests_router(self.request))
        if self._reloader is not None:
            routers.append(reload_router(partial(answer_reload, self._reloader)))
        return routers

    async def explain(self, question: DecisionQuestion) -> Explanation:
        """How a request would be decided now."""
        rules = self._pipeline.rulebook
        explainer = Explainer(rules.routes, rules.classifier, self._built().tenancy)
        return await explainer.explain(question, self._pipeline.moment)

    async def usage(self, query: UsageQuery) -> bytes:
        """A report of the ledger. Raises InvalidRequest, Unavailable."""
        settings = self._built().settings
        question = UsageQuestion(by=query.by, period=query.period, since=query.since, until=query.until)

        def report() -> bytes:
            url, zone = settings.ledger_url, settings.org.timezone
            rows = usage_rows(url, question, now=self._clock.now(), timezone=zone)
            return usage_document(rows, question, query.form)

        try:
            return await asyncio.to_thread(report)
        except (Unanswerable, ParquetMissing) as exc:
            raise InvalidRequest(f"{exc}.") from exc
        except LedgerUnavailable as exc:
            raise Unavailable(f"{exc}.", retry_after_seconds=LEDGER_RETRY_SECONDS) from exc

    async def request(self, request_id: str) -> bytes:
        """What became of a request, as JSON. Raises RequestNotFound, Unavailable."""
        settings = self._built().settings
        url, server = settings.ledger_url, settings.server
        try:
            found = await asyncio.to_thread(find_request, url, server.journal_dir, request_id)
        except LedgerUnavailable as exc:
            raise Unavailable(f"{exc}.", retry_after_seconds=LEDGER_RETRY_SECONDS) from exc
        if found is None:
            raise RequestNotFound(nothing_known(request_id, server.refusals_kept_days))
        return msgspec.json.encode(found)

    async def tco(self, question: TcoQuestion) -> bytes:
        """Both sides of the bill, as JSON. Raises InvalidRequest, Unavailable."""
        period = TcoPeriod(
            period=question.period,
            since=question.since,
            until=question.until,
            by=TcoRows(question.by),
            what_if=question.what_if,
        )
        now = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)
        try:
            await self._ledger.flush()
            await self._book_pools()
            sources = self._built().tco_sources
            return msgspec.json.encode(await asyncio.to_thread(answer, sources, period, now))
        except (WrongTime, WrongWhatIf) as exc:
            raise InvalidRequest(str(exc)) from exc
        except LedgerUnavailable as exc:
            raise Unavailable(
                "The ledger does not answer; try again.", retry_after_seconds=LEDGER_RETRY_SECONDS
            ) from exc


async def answer_reload(reloader: Reloader) -> ReloadAnswer:
    """A reload in the words of the admin API. Raises ReloadRefusal."""
    try:
        done = await reloader.reload(How.ADMIN)
    except ReloadRefused as refused:
        problems = [ConfigProblem.model_validate(problem_fields(problem)) for problem in refused.problems]
        is_passing = refused.result is Result.UNAVAILABLE
        raise ReloadRefusal(reloader.version, problems, refused.settings, is_passing=is_passing) from refused
    return ReloadAnswer(
        version=done.version,
        previous=done.previous,
        changed=done.result is Result.APPLIED,
        warnings=[ConfigProblem.model_validate(problem_fields(problem)) for problem in done.warnings],
    )
