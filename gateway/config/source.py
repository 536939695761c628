"""A YAML file as a tree of texts with line numbers, `${VAR}` replaced from the environment.

Rules:
- every scalar is text; the schema decides what it means (no YAML 1.1 surprises with `on`, `1e3` or dates);
- a tree is bounded in depth and in size, aliases counted as often as they expand;
- tags, merge keys, repeated keys and further documents are errors, because a reader would miss what they do;
- what comes from the environment never enters a message: messages show the file's own text;
- a reader that needs no secrets may give stand-ins for variables that are not set.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from gateway.config.kinds import BLANK
from gateway.config.problems import KeyPath, Problem, shorten

MAX_DEPTH: Final = 32
MAX_NODES: Final = 200_000
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_BLANK_TEXTS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_VARIABLE: Final = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<name>[^}]*)(?P<close>\}?)")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Scalar:
    """`raw` is the file's text, `text` the same with variables replaced; None when one of them is not set."""

    line: int
    raw: str
    text: str | None = field(repr=False)
    is_blank: bool
    size: int = 1

    @property
    def is_literal(self) -> bool:
        """True when nothing of the text comes from the environment."""
        return self.text == self.raw


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's line and the value behind it."""

    line: int
    node: "Node"


@dataclass(frozen=True, slots=True)
class Table:
    """A YAML mapping."""

    line: int
    entries: dict[str, Entry]
    size: int


@dataclass(frozen=True, slots=True)
class Items:
    """A YAML sequence."""

    line: int
    nodes: tuple["Node", ...]
    size: int


Node = Scalar | Table | Items
# What stands at a path for the variable of this name, which is not set and which the path's text begins with,
# or not; None: nothing may.
StandIn = Callable[[KeyPath, str, bool], str | None]


@dataclass(frozen=True, slots=True)
class Source:
    """What was read. `root` is None when the text is no YAML at all or has no content.

    `stood_in` are the variables for which something else stands in.
    """

    root: Node | None
    problems: list[Problem]
    unresolved: frozenset[KeyPath]
    stood_in: frozenset[str]


class _UnreadableError(Exception):
    """Reading cannot go on after `line`."""

    def __init__(self, line: int, message: str, path: KeyPath = ()) -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.path = path


def read(file: str, text: str, environ: Mapping[str, str], stand_in: StandIn | None = None) -> Source:
    """The tree of `text`. Never raises: what is wrong is in `problems`, named after `file`."""
    reader = _Reader(file, text, environ, stand_in)
    root: Node | None = None
    try:
        reader.refuse_control_characters()
        root = reader.document()
    except _UnreadableError as stop:
        reader.report(stop.line, stop.path, stop.message)
    except yaml.YAMLError as error:
        reader.report(*_syntax_problem(error, text))
    return Source(root, reader.problems, frozenset(reader.unresolved), frozenset(reader.stood_in))


def plain(node: Node) -> Any:
    """`node` as str, dict, list and BLANK, for the schema."""
    if isinstance(node, Scalar):
        return BLANK if node.is_blank else node.text or ""
    if isinstance(node, Items):
        return [plain(item) for item in node.nodes]
    return {key: plain(entry.node) for key, entry in node.entries.items()}


class _Reader:
    def __init__(self, file: str, text: str, environ: Mapping[str, str], stand_in: StandIn | None) -> None:
        self._file = file
        self._text = text
        self._environ = environ
        self._stand_in = stand_in
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, Node | None] = {}
        self.problems: list[Problem] = []
        self.unresolved: set[KeyPath] = set()
        self.stood_in: set[str] = set()

    def report(self, line: int, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(line, path, message, self._file))

    def refuse_control_characters(self) -> None:
        if found := _CONTROL.search(self._text):
            line = self._text.count("\n", 0, found.start()) + 1
            raise _UnreadableError(line, f"has a control character (U+{ord(found[0]):04X}): remove it")

    def document(self) -> Node | None:
        """The one document, or None when there is none."""
        self._events = yaml.parse(self._text, Loader=_LOADER)
        root: Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _UnreadableError(
                        _line(event), "a second document begins here (---): keep one a file"
                    )
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, ())
        return root

    def _node(self, event: Any, path: KeyPath) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, path)
        if len(path) > MAX_DEPTH:
            raise _UnreadableError(_line(event), f"is nested deeper than {MAX_DEPTH} levels")
        if event.tag is not None:
            self.report(_line(event), path, "has a YAML tag (!...): remove it, and quote the value if needed")
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # open until the node is complete
        node = self._content(event, path)
        if node.size > MAX_NODES:
            raise _UnreadableError(node.line, f"holds more than {MAX_NODES:,} values, aliases expanded", path)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _content(self, event: Any, path: KeyPath) -> Node:
        if isinstance(event, yaml.MappingStartEvent):
            return self._table(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(event, path)
        return self._scalar(event, path)

    def _aliased(self, event: Any, path: KeyPath) -> Node:
        if event.anchor not in self._anchors:
            raise _UnreadableError(_line(event), f"the alias *{event.anchor} has no anchor before it", path)
        node = self._anchors[event.anchor]
        if node is None:
            raise _UnreadableError(_line(event), f"the alias *{event.anchor} contains itself", path)
        return node

    def _items(self, start: Any, path: KeyPath) -> Items:
        nodes: list[Node] = []
        size = 1
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            nodes.append(self._node(event, (*path, len(nodes))))
            size += nodes[-1].size
        return Items(_line(start), tuple(nodes), size)

    def _table(self, start: Any, path: KeyPath) -> Table:
        entries: dict[str, Entry] = {}
        size = 1
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, path)
            value = self._node(next(self._events), path if key is None else (*path, key))
            size += value.size
            if key is None:
                continue
            if key in entries:
                first = entries[key].line
                self.report(_line(event), (*path, key), f"is given twice: here and on line {first}; keep one")
            else:
                entries[key] = Entry(_line(event), value)
        return Table(_line(start), entries, size)

    def _key(self, event: Any, path: KeyPath) -> str | None:
        """The key's text, or None where it cannot be used (which is reported)."""
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, path)
            self.report(_line(event), path, 'has a key that is no plain text; in [ ] and { } quote "${...}"')
            return None
        if event.value == "<<" and not event.style:
            self.report(_line(event), path, "merge keys (<<) are not read: write the keys out")
            return None
        if not event.value:
            self.report(_line(event), path, "has an empty key: write a name before the colon")
            return None
        if event.tag is not None or "${" in event.value:
            self.report(
                _line(event), path, "has a key with a tag or a variable: only values may have variables"
            )
            return None
        return str(event.value)

    def _scalar(self, event: Any, path: KeyPath) -> Scalar:
        raw = str(event.value)
        text = self._replaced(raw, _line(event), path) if "${" in raw else raw
        is_blank = not event.style and raw in _BLANK_TEXTS
        return Scalar(_line(event), raw, text, is_blank)

    def _replaced(self, raw: str, line: int, path: KeyPath) -> str | None:
        """`raw` with its variables replaced; None, and each reported, when some are not set."""
        faults: list[str] = []

        def value(found: re.Match[str]) -> str:
            if found["escaped"]:
                return "${"
            name = found["name"]
            if not found["close"] or not _VARIABLE_NAME.fullmatch(name):
                faults.append(
                    f"{shorten(found[0])} is no variable: write ${{NAME}}, or $${{ for a literal ${{"
                )
                return ""
            if name in self._environ:
                return self._environ[name]
            stand_in = self._stand_in and self._stand_in(path, name, found.start() == 0)
            if not stand_in:
                faults.append(f"the environment variable {name} is not set")
                return ""
            self.stood_in.add(name)
            return stand_in

        text = _VARIABLE.sub(value, raw)
        for fault in faults:
            self.report(line, path, fault)
        if faults:
            self.unresolved.add(path)
            return None
        return text


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _syntax_problem(error: yaml.YAMLError, text: str) -> tuple[int, KeyPath, str]:
    """A syntax error as (line, path, message), with the usual mistakes named."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return 1, (), "is not YAML"
    lines = text.splitlines()
    number = min(mark.line + 1, max(len(lines), 1))
    line = lines[number - 1] if lines else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or line[mark.column : mark.column + 1] == "\t":
        return number, (), "has a tab: YAML is indented with spaces"
    if re.search(r"[\[{,:]\s*\$\{", line):
        return number, (), 'is not YAML: inside [ ] and { } a variable needs quotes: "${NAME}"'
    problem = re.sub(r"\s+", " ", str(getattr(error, "problem", "") or "")).strip()
    return number, (), f"is not YAML: {problem}" if problem else "is not YAML"
