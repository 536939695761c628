"""The fenced blocks of the pages, and the commands in them.

Every block names its language. `sh` has commands only. `console` is a session: after `$ ` a command, below it
what it prints, where a line `...` stands for any lines that the page leaves out.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.docs.source import ROOT

PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "deploy/**/*.md", "helm/**/*.md")
    for path in ROOT.glob(pattern)
)
_FENCED = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_PROMPT = "$ "


class Block(NamedTuple):
    """`line` is that of its first line within the page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Step(NamedTuple):
    """A command, over several lines where it is long, and what the page says that it prints, if it does."""

    command: str
    shown: str


def blocks(page: str, *languages: str) -> list[Block]:
    """The blocks of `page` in these languages, or all. An indented block, as in a list, is told without."""
    text = (ROOT / page).read_text()
    found = [
        Block(page, text.count("\n", 0, match.start(3)) + 1, match[2], _dedented(match[1], match[3]))
        for match in _FENCED.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def _dedented(indent: str, text: str) -> str:
    return re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def steps(block: Block) -> list[Step]:
    """The commands of an `sh` or `console` block in their order."""
    return list(_session(block.text) if block.language == "console" else _commands(block.text))


def _commands(text: str) -> Iterator[Step]:
    """Each line that is no comment; one that ends in a backslash goes on in the next."""
    for command in re.findall(r"(?:.*\\\n)*.*\n?", text):
        if command.strip() and not command.lstrip().startswith("#"):
            yield Step(command.strip(), "")


def _session(text: str) -> Iterator[Step]:
    for part in re.split(rf"^{re.escape(_PROMPT)}", text, flags=re.MULTILINE)[1:]:
        match = re.match(r"((?:.*\\\n)*.*)\n?", part)
        assert match is not None
        yield Step(match[1], part[match.end() :])


def in_sentences(page: str) -> Iterator[str]:
    """What a page writes as code outside of blocks."""
    text = _FENCED.sub("", (ROOT / page).read_text())
    yield from (" ".join(found.split()) for found in _INLINE.findall(text))
