"""No task runs unowned: whoever makes one sees how it ends, or it is a supervised loop."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import gateway
from gateway.quota.redis import admission

ROOT = Path(gateway.__file__).parent
DOCS = ROOT.parent / "docs" / "metrics.md"
MAKERS = {"create_task", "_new_task", "ensure_future", "TaskGroup", "run_coroutine_threadsafe"}

# By file and function: who sees how the task ends.
OWNED = {
    ("supervised.py", "start"): "the loop catches everything; `close` awaits it",
    ("assembly/lifecycle.py", "start_unless"): "awaited there, both",
    ("assembly/lifecycle.py", "_start_ledger"): "awaited there",
    ("finance/pool_accrual.py", "_book"): "awaited there; its callback counts what was booked",
    ("policy/rollout/reloader.py", "reload_soon"): "catches and logs everything; `close` awaits it",
    ("privacy/service.py", "configure"): "`close` awaits it",
    ("quota/redis/admission.py", "close"): "awaited there",
    ("quota/redis/read_budgets.py", "_connected"): "awaited there",
    ("ledger/journal/ledger.py", "_sync_now"): "awaited there, and when the loop is closed",
    ("ledger/process/service.py", "_take"): "answers and logs its own defects; `close` awaits it",
    ("http/server/connection.py", "_start"): "one request; logs its own defects, and stopping awaits it",
    ("http/server/accepting.py", "_accept"): "one connection; `close` awaits it",
    ("http/client/resolver.py", "_resolve"): "its callback takes what it raises; `close` awaits it",
    (
        "proxy/left_requests.py",
        "forward",
    ): "awaited there; left, its callback logs defects and `close` awaits it",
    ("workers/pool.py", "_start"): "catches everything and fails the pool; `stop` awaits it",
    ("workers/process.py", "__init__"): "catches everything and hangs up; `ended` awaits it",
    ("workers/supervisor.py", "run"): "awaited there, both",
    ("demo/run.py", "_unless_stopped"): "awaited there, both",
    ("demo/run.py", "_feature"): "awaited there",
}


def made() -> Iterator[tuple[str, str]]:
    """File and function of each task that is made in gateway/."""
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and _name(node.func) in MAKERS:
                        yield path.relative_to(ROOT).as_posix(), function.name


def supervised() -> Iterator[str]:
    """The name of each supervised loop."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) == "SupervisedTask":
                name = node.args[0]
                yield from [name.value] if isinstance(name, ast.Constant) else admission.LOOPS


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_every_task_has_an_owner_that_sees_how_it_ends() -> None:
    assert set(made()) == set(OWNED)


def test_every_supervised_loop_is_documented_and_every_documented_one_exists() -> None:
    section = DOCS.read_text().partition("### Background tasks")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == sorted(supervised())
