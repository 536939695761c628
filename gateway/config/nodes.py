"""The tree of a file, walked without caring whether its shape is right.

Cross-checks read through this and not through the validated settings, so that a wrong price in one deployment
does not hide a wrong name in another: every error of a file is listed at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.config.problems import KeyPath, did_you_mean, shorten
from gateway.config.source import Items, Node, Scalar, Table


@dataclass(frozen=True, slots=True)
class ConfigNode:
    """One value of the file. It may be missing: `parsed` is None, and `line` that of what surrounds it."""

    path: KeyPath
    line: int
    parsed: Node | None = field(repr=False)

    def __getitem__(self, key: str) -> "ConfigNode":
        """What stands behind `key`."""
        if isinstance(self.parsed, Table) and key in self.parsed.entries:
            entry = self.parsed.entries[key]
            return ConfigNode((*self.path, key), entry.line, entry.node)
        return ConfigNode((*self.path, key), self.line, None)

    @property
    def exists(self) -> bool:
        """Whether something is written here; a blank counts as nothing."""
        return self.parsed is not None and not (isinstance(self.parsed, Scalar) and self.parsed.is_blank)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.parsed, Table)

    @property
    def is_list(self) -> bool:
        return isinstance(self.parsed, Items)

    @property
    def text(self) -> str | None:
        """The text here; None where there is none, or a variable of it is not set."""
        if isinstance(self.parsed, Scalar) and not self.parsed.is_blank:
            return self.parsed.text
        return None

    @property
    def is_literal(self) -> bool:
        """True when messages may show the text: nothing of it comes from the environment."""
        return isinstance(self.parsed, Scalar) and self.parsed.is_literal

    @property
    def raw(self) -> str:
        """The text as it stands in the file, `${VAR}` and all, for messages."""
        return shorten(self.parsed.raw) if isinstance(self.parsed, Scalar) else ""

    @property
    def quoted(self) -> str:
        """The text for messages: as the file has it, or nothing telling when a variable is in it."""
        return repr(self.raw) if self.is_literal else "this value"

    def hint(self, known: Iterable[str]) -> str:
        """`; did you mean 'x'?` for a literal text near to a known name."""
        near = did_you_mean(self.text or "", sorted(known)) if self.is_literal else ""
        return f"; {near}" if near else ""

    def __contains__(self, key: str) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> tuple[str, ...]:
        return tuple(self.parsed.entries) if isinstance(self.parsed, Table) else ()

    def entries(self) -> Iterator[tuple[str, "ConfigNode"]]:
        """Each key and what stands behind it."""
        for key in self.keys():
            yield key, self[key]

    def items(self) -> Iterator["ConfigNode"]:
        """Each element of a list."""
        if isinstance(self.parsed, Items):
            for index, node in enumerate(self.parsed.nodes):
                yield ConfigNode((*self.path, index), node.line, node)

    def texts(self) -> tuple[str, ...]:
        """The texts of a list; none when one of them is not known, because then the list is not known."""
        found = tuple(item.text for item in self.items())
        return tuple(text for text in found if text is not None) if None not in found else ()

    def literals(self) -> frozenset[str]:
        """Those texts of a list that messages may show."""
        return frozenset(item.text for item in self.items() if item.text is not None and item.is_literal)

    def find(self, pattern: str) -> Iterator["ConfigNode"]:
        """Every place that exists at `pattern`, such as `deployments.*.serves.*`."""
        yield from _find(self, pattern.split("."))

    def at(self, path: KeyPath) -> "ConfigNode":
        """The place at `path`; where it is missing, with the line of the nearest thing around it."""
        place = self
        for part in path:
            place = place[part] if isinstance(part, str) else place._item(part)
        return place

    def _item(self, index: int) -> "ConfigNode":
        if isinstance(self.parsed, Items) and 0 <= index < len(self.parsed.nodes):
            node = self.parsed.nodes[index]
            return ConfigNode((*self.path, index), node.line, node)
        return ConfigNode((*self.path, index), self.line, None)


def _find(place: ConfigNode, parts: list[str]) -> Iterator[ConfigNode]:
    if not parts:
        if place.exists:
            yield place
        return
    part, *rest = parts
    if part != "*":
        yield from _find(place[part], rest)
        return
    for _, child in place.entries():
        yield from _find(child, rest)
    for item in place.items():
        yield from _find(item, rest)
