"""The gateway's own source as syntax trees, for tests that hold its structure and its pages."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
GATEWAY = ROOT / "gateway"
LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})

# One log call: the event's name, its level, and its fields ("**" for those that are not literal).
LogCall = tuple[str, str, frozenset[str]]


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Each file of gateway/ by its dotted name; a package goes by its folder's name."""
    return {dotted(path): ast.parse(path.read_text(), str(path)) for path in sorted(GATEWAY.rglob("*.py"))}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_package(module: str) -> bool:
    return ROOT.joinpath(*module.split("."), "__init__.py").exists()


def imports(module: str) -> set[str]:
    """The files that `module` imports, wherever in the file: in functions and under TYPE_CHECKING too.

    `from a.b import c` is an import of a.b.c where that is a file, else of a.b. A package's `__init__` runs
    before any file in it, so it counts wherever something outside of that package imports one of its files.
    """
    known = modules()
    found: set[str] = set()
    for name in _names(module):
        target = name if name in known else name.rpartition(".")[0]
        if target in known:
            found |= {target, *_packages_entered(module, target)}
    return found - {module}


def _names(module: str) -> Iterator[str]:
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    levels = node.level - (1 if is_package(module) else 0)
    base = module.rsplit(".", levels)[0] if levels else module
    return f"{base}.{node.module}" if node.module else base


def _packages_entered(module: str, target: str) -> Iterator[str]:
    """The packages around `target` that do not also hold `module`."""
    parts = target.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if module != package and not module.startswith(package + "."):
            yield package


def log_calls() -> Iterator[tuple[str, LogCall]]:
    """Every structlog call in gateway/, with the place it stands in as `file:line`."""
    for module, tree in modules().items():
        loggers = _loggers(tree)
        for node in ast.walk(tree):
            if _is_log_call(node, loggers):
                yield f"{module}:{node.lineno}", _log_call(node)


def _loggers(tree: ast.Module) -> set[str]:
    """What the file calls its loggers: every name that `get_logger()`, bound or not, is assigned to."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and "get_logger" in ast.unparse(node.value):
            found |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.AnnAssign) and node.value and "get_logger" in ast.unparse(node.value):
            found.add(ast.unparse(node.target))
    return found


def _is_log_call(node: ast.AST, loggers: set[str]) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    owner = ast.unparse(node.func.value)
    named = owner.rpartition(".")[2].lstrip("_") in {"log", "logger"}
    return node.func.attr in LEVELS and (owner in loggers or named or "get_logger" in owner)


def _log_call(node: ast.Call) -> LogCall:
    event = node.args[0] if node.args else None
    assert isinstance(event, ast.Constant), f"line {node.lineno}: an event's name has to be a literal"
    # `exception` is written at the level "error", with the traceback as a field.
    level = "error" if node.func.attr == "exception" else node.func.attr
    fields = {keyword.arg or "**" for keyword in node.keywords}
    if len(node.args) > 1 and isinstance(node.args[1], ast.Dict):  # of the access log
        fields |= {ast.literal_eval(key) for key in node.args[1].keys if key is not None}
    # A traceback that is handed in is written under the same name.
    fields |= {"exception"} if node.func.attr == "exception" or "exc_info" in fields else set()
    fields -= {"exc_info"}
    return event.value, level, frozenset(fields)
