"""The tree's own rules: no circles, one class for each name, small classes, rooms of a size, tidy tests."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.source import GATEWAY, ROOT, dotted, imports, is_package, modules

MOST_ATTRIBUTES = 14
LARGEST_SHARE = 0.20
# How a docstring says why its class needs more: a sentence that begins with these words.
REASON = re.compile(r"\bMany attributes: +\S+ +\S+")
# Who must not import whom. `http` moves bytes; `quota` and `ledger` are two answers to two questions.
NEVER_IMPORTS = [
    ("gateway.http", "gateway.proxy"),
    ("gateway.http", "gateway.policy"),
    ("gateway.http", "gateway.config"),
    ("gateway.quota", "gateway.ledger"),
    ("gateway.ledger", "gateway.quota"),
]


# --- imports ---


def circles() -> Iterator[list[str]]:
    """The groups of files that import each other, directly or through others (Tarjan's algorithm)."""
    graph = {module: sorted(imports(module)) for module in modules()}
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in graph[module]:
            if target not in order:
                yield from visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            at = stack.index(module)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                yield sorted(group)

    for module in graph:
        if module not in order:
            yield from visit(module)


def test_no_files_import_each_other_in_a_circle() -> None:
    found = list(circles())
    assert not found, "\n".join(" <-> ".join(group) for group in found)


@pytest.mark.parametrize(("importer", "imported"), NEVER_IMPORTS)
def test_the_room_never_imports_the_other(importer: str, imported: str) -> None:
    wrong = [
        f"{module} imports {target}"
        for module in modules()
        if within(module, importer)
        for target in imports(module)
        if within(target, imported)
    ]
    assert not wrong, "\n".join(wrong)


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


# --- classes ---


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield module, node


def test_no_class_name_is_defined_twice() -> None:
    """`gateway/config` is left out: a section of the file may be named as what is built from it."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for module, node in classes():
        if not within(module, "gateway.config"):
            places[node.name].append(f"{module}:{node.lineno}")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice, "\n".join(f"{name}: {', '.join(where)}" for name, where in sorted(twice.items()))


def attributes(node: ast.ClassDef) -> set[str]:
    """What an instance holds: annotated fields, `__slots__`, and whatever a method assigns to `self`."""
    found: set[str] = set()
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and not _is_class_level(statement):
            found.add(ast.unparse(statement.target))
        elif isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__slots__":
            found |= _slots(statement.value)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= _assigned(statement)
    return found - {"__dict__", "__weakref__"}


def _is_class_level(statement: ast.AnnAssign) -> bool:
    return ast.unparse(statement.annotation).startswith(("ClassVar", "typing.ClassVar"))


def _slots(value: ast.expr) -> set[str]:
    names = ast.literal_eval(value)
    return {names} if isinstance(names, str) else set(names)


def _assigned(method: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    parameters = [*method.args.posonlyargs, *method.args.args]
    if not parameters or any(
        ast.unparse(item) in {"staticmethod", "classmethod"} for item in method.decorator_list
    ):
        return set()
    own = parameters[0].arg
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == own
    }


def has_reason(node: ast.ClassDef) -> bool:
    return bool(REASON.search(ast.get_docstring(node) or ""))


def sections() -> set[str]:
    """The schema's classes: those that inherit from Section, directly or through others."""
    bases = {
        node.name: {ast.unparse(base) for base in node.bases}
        for module, node in classes()
        if within(module, "gateway.config")
    }
    found = {"Section"}
    while more := {name for name, parents in bases.items() if parents & found} - found:
        found |= more
    return found


def test_a_class_with_many_attributes_says_why() -> None:
    """The schema of the configuration is left out: each of its attributes is a key of the file."""
    schema = sections()
    wrong = [
        f"{module}:{node.lineno} {node.name} has {count}"
        for module, node in classes()
        if not (within(module, "gateway.config") and node.name in schema)
        and (count := len(attributes(node))) > MOST_ATTRIBUTES
        and not has_reason(node)
    ]
    advice = "split it, or say why in its docstring: 'Many attributes: ...'"
    assert not wrong, "\n".join([*wrong, advice])


def test_a_reason_that_is_not_needed_any_more_is_removed() -> None:
    stale = [
        f"{module}:{node.lineno} {node.name}"
        for module, node in classes()
        if has_reason(node) and len(attributes(node)) <= MOST_ATTRIBUTES
    ]
    assert not stale, "\n".join(stale)


# --- rooms and tests ---


def test_no_room_holds_more_than_a_fifth_of_the_lines() -> None:
    lines: defaultdict[str, int] = defaultdict(int)
    for path in GATEWAY.rglob("*.py"):
        lines[path.relative_to(GATEWAY).parts[0]] += path.read_text().count("\n")
    total = sum(lines.values())
    large = {room: f"{count / total:.1%}" for room, count in lines.items() if count > LARGEST_SHARE * total}
    assert not large


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for top in (GATEWAY, ROOT / "tests") for path in top.rglob("*.py")}
    missing = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]
    assert not missing


def test_no_test_file_lies_loose_at_the_top() -> None:
    found = {path.name for path in (ROOT / "tests").glob("*.py")}
    assert found <= {"__init__.py", "conftest.py"}


def test_no_two_test_files_share_a_name() -> None:
    places: defaultdict[str, list[Path]] = defaultdict(list)
    for path in (ROOT / "tests").rglob("test_*.py"):
        places[path.name].append(path.relative_to(ROOT))
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice


# --- the measure itself ---


def test_the_measure_sees_every_way_to_define_an_attribute() -> None:
    node = ast.parse(
        "class A:\n"
        "    __slots__ = ('slot',)\n"
        "    shared: ClassVar[int] = 0\n"
        "    field: int\n"
        "    def __init__(self):\n"
        "        self.one, self.two = 1, 2\n"
        "        self.one.other = 3\n"
        "    async def later(self):\n"
        "        self.three += 1\n"
    ).body[0]
    assert isinstance(node, ast.ClassDef)
    assert attributes(node) == {"slot", "field", "one", "two", "three"}


def test_the_measure_sees_the_schema() -> None:
    assert {"Server", "Payer", "Feature"} <= sections()  # Feature inherits from Payer


def test_the_measure_sees_imports_within_functions_and_of_packages() -> None:
    assert "gateway.app" in imports("gateway.cli")  # within a function
    assert "gateway.core" in imports("gateway.ports")  # the package of what is imported
    assert all(target in modules() for module in modules() for target in imports(module))
    assert is_package("gateway.core")
    assert dotted(GATEWAY / "core" / "__init__.py") == "gateway.core"
