"""What a page shows of a command's output against what it printed."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

# A line of a page that stands for any lines, or none.
LEFT_OUT = "..."


class Varying(NamedTuple):
    """What differs each time: `pattern` matches it as printed, and as a page writes it."""

    pattern: str
    word: str


VARIES = (
    Varying(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{4}\.\.\.", "KEY"),
    # Receipts are entered with the rows of a commit: in how many entries depends on how rows came together.
    Varying(r"\b\d+ entries\b", "ENTRIES"),
    Varying(r"\breq_(?:[0-9a-z]{8,}|\.\.\.)", "REQUEST"),
    Varying(r'(?<="created":)\d{10}\b', "CREATED"),
    Varying(r"\b127\.0\.0\.1:\d{5}\b", "ADDRESS"),
)
# A demo is of today, and its file of this machine's folders and ports.
VARIES_IN_A_DEMO = (
    Varying(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::[\d.]+Z?)?)?", "MOMENT"),
    Varying(r"(?<=\bversion )[0-9a-f]{12}\b", "VERSION"),
    Varying(r"(?<=\bagainst )[0-9a-f]{12}\b", "VERSION"),
)
# Lines below and between rows of tables.
_RULE = re.compile(r"[\s\u2500-\u257f]*")


def difference(shown: str, printed: str, varies: Sequence[Varying]) -> str:
    """Nothing where `printed` is what the page shows, else both beside each other."""
    wanted, found = _lines(shown, varies), _lines(printed, varies)
    pattern = "".join(r"(?:.*\n)*" if line == LEFT_OUT else re.escape(line) + r"\n" for line in wanted)
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in found)):
        return ""
    return "\n".join(difflib.unified_diff(wanted, found, "the page", "what is printed", lineterm=""))


def _lines(text: str, varies: Sequence[Varying]) -> list[str]:
    """Without empty lines, rules of tables and the widths of columns, and with a word for what varies."""
    for one in varies:
        text = re.sub(one.pattern, one.word, text)
    return [re.sub(r"  +", "  ", line.rstrip()) for line in text.splitlines() if not _RULE.fullmatch(line)]
