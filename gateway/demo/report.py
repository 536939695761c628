"""What the demo prints: plain lines and tables for a terminal of 100 columns, and the same when piped."""

import io
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from gateway import __version__
from gateway.core.money import usd_decimal
from gateway.core.pricing import usd_text
from gateway.demo.books import BudgetState, DemoBooks, Secrecy
from gateway.demo.samples import Sample
from gateway.demo.stage import GPT_4O, Stage
from gateway.demo.traffic import SampleOutcome, Visit
from gateway.ledger.reports import UsageRow

COLUMNS = 100

_FEATURE_COLUMNS = 18
_TITLE_COLUMNS = 37
_LEAST_TITLE_COLUMNS = 16
_OTHER_COLUMNS = 59
_INDENT = " " * 6
_NUMBER_COLUMNS = 8
_DECISIONS = {
    "cost": "the cheapest allowed",
    "latency": "the fastest allowed",
    "order": "the first allowed",
    "weights": "drawn by weight",
    "only": "the only deployment of this model",
    "only-privacy": "the only one its class allows",
    "only-modality": "the only one that reads this content",
    "only-capability": "the only one that can do this",
    "only-context": "the only one that it fits into",
    "only-health": "the only one that is up",
    "failover": "the first choice failed",
}
_SHOWN_METRICS = (
    "tollway_attempts_total{",
    "tollway_refusals_total{",
    'tollway_budget_spent_usd{name="demo"',
    'tollway_budget_spent_usd{scope="org"',
    "tollway_replica_up{",
)


class DemoReport:
    """Writes to standard output. Colours only in a terminal, and not with NO_COLOR."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _console()

    def header(self, stage: Stage) -> None:
        key = stage.keys["support-agent"]
        replicas = ", ".join(simulator.url for simulator in stage.llama_4)
        self._console.print()
        self._line(f"Tollway {__version__} demo: everything on this machine, no key, no GPU", style="bold")
        self._console.print()
        for name, value in (
            ("base URL", f"{stage.gateway.data_url}/v1"),
            ("API key", f"{key}  (feature support-agent)"),
            ("admin", f"{stage.gateway.admin_url}/metrics, /healthz, /readyz"),
            ("admin token", stage.admin_token),
            ("GPT-4o", f"{stage.gpt_4o.url}  (simulated; zone external)"),
            ("Llama 4", f"{replicas}  (simulated replicas 1 and 2; zone local)"),
        ):
            self._line(f"  {name:<12} {value}")
        self._console.print()
        self._line("  Try it from another terminal:")
        self._line(f"  {_curl(stage.gateway.data_url, key)}")

    def heading(self, text: str) -> None:
        self._console.print()
        self._line(text, style="bold")

    def note(self, text: str) -> None:
        self._line(f"  {text}")

    def request(self, outcome: SampleOutcome, stage: Stage) -> None:
        """Two lines: what was asked and what it took, then where it went and why."""
        sample = outcome.sample
        style = "green" if outcome.is_answered else "yellow" if outcome.is_as_expected else "red"
        line = Text("  ")
        line.append(f"{outcome.status} {sample.feature:<{_FEATURE_COLUMNS}}", style=style)
        title = Text(sample.title)
        title.truncate(self._title_columns(), overflow="ellipsis", pad=True)
        line.append_text(title)
        line.append(_amounts(outcome))
        self._console.print(line)
        for part in _wrapped(_why(outcome, stage), self._console.width - len(_INDENT)):
            self._line(_INDENT + part, style="dim")

    def results(self, books: DemoBooks, secrecy: Secrecy, *, in_full: bool) -> None:
        """The costs, `in_full` also the budgets and a look at /metrics, and what was checked."""
        if books.by_feature:
            self._costs(books)
        if in_full:
            self._budgets(books.budgets)
            self._metrics(books.metrics)
        self.heading("Checked")
        self.note(f"ledger = budget = metrics: {usd_text(books.ledger_nano)} USD")
        self.note(f"confidential text at the external side: {secrecy.leaked} of {secrecy.seen} requests")

    def status(self, text: str) -> "LiveLine":
        return LiveLine(self._console, text)

    def _costs(self, books: DemoBooks) -> None:
        others = sorted({name for row in books.by_feature for name in row.counterfactual_usd})
        self.heading("Cost per feature, in USD")
        rows = [*books.by_feature, _total(books.by_feature)]
        self._print_table(_cost_table("feature", rows, others))
        self.heading("Both sides, in USD")
        self._print_table(_cost_table("deployment", books.by_deployment, others))
        self.note('"on X": what the requests that were answered elsewhere would have cost on X, where their')
        self.note("model names X. Llama 4 costs its transfer price: what its GPUs cost when fully used.")
        self.note(_compared(books.by_deployment))

    def _budgets(self, budgets: Sequence[BudgetState]) -> None:
        self.heading("Budgets, in USD")
        table = _table("budget", "window", "spent", "limit", "used", left=2)
        for budget in budgets:
            spent, limit = usd_decimal(budget.spent_nano), usd_decimal(budget.limit_nano)
            table.add_row(
                f"{budget.scope} {budget.name}",
                budget.window,
                f"{spent:.6f}",
                f"{limit:.2f}",
                f"{spent / limit:.2%}",
            )
        self._print_table(table)

    def _metrics(self, text: str) -> None:
        self.heading("From /metrics")
        for line in text.splitlines():
            if line.startswith(_SHOWN_METRICS):
                self.note(line)

    def _print_table(self, table: Table) -> None:
        table.padding = (0, 1) if self._console.width >= COLUMNS else 0
        self._console.print(table)

    def _title_columns(self) -> int:
        """A narrow terminal takes from the titles, never from the numbers."""
        return min(max(self._console.width - _OTHER_COLUMNS, _LEAST_TITLE_COLUMNS), _TITLE_COLUMNS)

    def _line(self, text: str, style: str = "") -> None:
        """One line, never broken, so that it can be copied."""
        self._console.print(Text(text, style=style), soft_wrap=True)


class LiveLine:
    """A line that changes in place while the demo serves; without a terminal it is written once."""

    def __init__(self, console: Console, text: str) -> None:
        self._console = console
        self._text = text
        # Twice a second: the spinner shows life and costs nothing.
        self._status = Status(text, console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is None:
            self._console.print(self._text)
        else:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)


def _console() -> Console:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a title in Japanese must not end the show
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = COLUMNS
    return console


def _curl(data_url: str, key: str) -> str:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hello"}]})
    return (
        f"curl -i {data_url}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def _amounts(outcome: SampleOutcome) -> str:
    if not outcome.is_answered:
        return f"{'-':>14}{'-':>12}{outcome.seconds:>7.2f} s"
    usage = outcome.usage
    tokens = f"{usage.input_tokens:,}+{usage.output_tokens}"
    return f" {tokens:>9} tok  ${usd_decimal(outcome.cost_nano):.6f} {outcome.seconds:>6.2f} s"


def _why(outcome: SampleOutcome, stage: Stage) -> str:
    classified = f"{outcome.classified.privacy} ({outcome.classified.raised_by})"
    if not outcome.is_answered:
        return f"{classified} -> refused: {outcome.problem}"
    reason = _reason(outcome.decision, outcome.sample, stage)
    where = f"{outcome.zone}: {outcome.deployment}{_replicas(outcome.visits)}"
    return f"{classified} -> {where} [{outcome.decision}: {reason}]"


def _reason(decision: str, sample: Sample, stage: Stage) -> str:
    kind, _, number = decision.partition("-")
    if kind == "rule" and number.isdigit():
        return stage.built.settings.models[sample.model].rules[int(number) - 1].when
    return _DECISIONS.get(decision, "see docs/configuration.md")


def _replicas(visits: Sequence[Visit]) -> str:
    parts = []
    for visit in visits:
        if visit.status is not None and visit.status >= 400:
            parts.append(f"{_server(visit)} failed with {visit.status}")
        elif visit.replica:
            parts.append(_server(visit))
    return f", {', then '.join(parts)}" if parts else ""


def _server(visit: Visit) -> str:
    return f"replica {visit.replica}" if visit.replica else "GPT-4o"


def _wrapped(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, columns, break_on_hyphens=False)


def _cost_table(noun: str, rows: Sequence[UsageRow], others: Sequence[str]) -> Table:
    heads = (noun, "requests", "input tok", "output tok", "cost", *(f"on {name}" for name in others))
    table = _table(*heads, left=1)
    for row in rows:
        table.add_row(*_cells(row, others))
    return table


def _cells(row: UsageRow, others: Sequence[str]) -> list[str]:
    elsewhere = [row.counterfactual_usd.get(name) for name in others]
    return [
        row.name,
        f"{row.requests:,}",
        f"{row.input_tokens:,}",
        f"{row.output_tokens:,}",
        f"{row.cost_usd:.6f}",
        *("-" if usd is None else f"{usd:.6f}" for usd in elsewhere),
    ]


def _total(rows: Sequence[UsageRow]) -> UsageRow:
    elsewhere: dict[str, Decimal] = {}
    for row in rows:
        for name, usd in row.counterfactual_usd.items():
            elsewhere[name] = elsewhere.get(name, Decimal(0)) + usd
    return UsageRow(
        group=dict.fromkeys(rows[0].group, "total"),
        requests=sum(row.requests for row in rows),
        attempts=sum(row.attempts for row in rows),
        input_tokens=sum(row.input_tokens for row in rows),
        cached_input_tokens=sum(row.cached_input_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        cost_usd=sum((row.cost_usd for row in rows), Decimal(0)),
        counterfactual_usd=elsewhere,
        units={},
        unit_costs={},
    )


def _compared(rows: Iterable[UsageRow]) -> str:
    """What was spent, against everything on GPT-4o. Requests that only GPT-4o may answer cost the same."""
    spent = everything = Decimal(0)
    for row in rows:
        spent += row.cost_usd
        everything += row.counterfactual_usd.get(GPT_4O, row.cost_usd)
    return f"As routed {spent:.6f} USD; everything on {GPT_4O} would have been {everything:.6f} USD."


def _table(*heads: str, left: int) -> Table:
    """A plain table whose first `left` columns are text and the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for number, head in enumerate(heads):
        if number < left:
            table.add_column(head, no_wrap=True)
        else:
            # In a narrow terminal the head is broken into lines, and the number stays whole.
            table.add_column(head, justify="right", min_width=_NUMBER_COLUMNS)
    return table
