"""Tables for a terminal in which no digit is ever cut.

What does not fit loses columns that can be spared, and at last stands as a block of lines for each row.
Output that goes to no terminal has room for everything.
"""

import shutil
from collections.abc import Iterator, Sequence

import msgspec
import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOM_OF_A_PIPE = 1000  # columns
# Names wrap down to the first of these rather than that a column goes, and to the second at last.
COMFORTABLE_NAME = 20
NARROWEST_NAME = 12


class TableColumn(msgspec.Struct, frozen=True):
    """`words`: names, which may wrap; else numbers and moments. The highest `spare` goes first."""

    head: str
    words: bool = False
    spare: int = 0


def words(head: str, spare: int = 0) -> TableColumn:
    """A column of names."""
    return TableColumn(head, words=True, spare=spare)


def number(head: str, spare: int = 0) -> TableColumn:
    """A column of numbers or moments."""
    return TableColumn(head, spare=spare)


def print_table(
    columns: Sequence[TableColumn],
    rows: Sequence[Sequence[str]],
    *,
    total: Sequence[str] | None = None,
    title: str | None = None,
) -> None:
    """Print `rows`, each with a cell for each of `columns`, and `total` below a line."""
    console = Console(width=shutil.get_terminal_size((ROOM_OF_A_PIPE, 24)).columns, highlight=False)
    cells = [[printable(cell) for cell in row] for row in (*rows, *(() if total is None else (total,)))]
    if title is not None:
        console.print(Text(title))
    for shown, name_columns in _layouts(columns):
        kept = [columns[index] for index in shown]
        kept_cells = [[row[index] for index in shown] for row in cells]
        widths = _widths(kept, kept_cells, name_columns, console.width)
        if widths is not None:
            console.print(_table(kept, kept_cells, widths, has_total=total is not None))
            if left_out := [column.head for index, column in enumerate(columns) if index not in shown]:
                typer.echo(f"Left out for want of room: {', '.join(left_out)}. --format json has them.")
            return
    _print_blocks(console, [column.head for column in columns], cells)


def _layouts(columns: Sequence[TableColumn]) -> Iterator[tuple[list[int], int]]:
    """The columns to show, and how far names may wrap: one spare column less each time, then tighter."""
    shown = list(range(len(columns)))
    for index in sorted((one for one in shown if columns[one].spare), key=lambda one: -columns[one].spare):
        yield list(shown), COMFORTABLE_NAME
        shown.remove(index)
    yield shown, COMFORTABLE_NAME
    yield shown, NARROWEST_NAME


def printable(value: str) -> str:
    """`value`, which a client may have written, without what would move a terminal's cursor."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value)


def _widths(
    columns: Sequence[TableColumn], cells: Sequence[Sequence[str]], name_columns: int, room: int
) -> list[int] | None:
    """How wide each column is, in terminal columns, within `room`; None where they do not fit.

    Names wrap down to `name_columns`, and heads between their words. Numbers are never narrowed.
    """
    longest = [max((cell_len(row[index]) for row in cells), default=0) for index in range(len(columns))]
    words_of_head = [max((cell_len(word) for word in column.head.split()), default=0) for column in columns]
    least = [
        max(min(cell, name_columns) if column.words else cell, head)
        for column, cell, head in zip(columns, longest, words_of_head, strict=True)
    ]
    # A space on both sides of each column, and one between two.
    spare = room - sum(least) - (3 * len(columns) - 1)
    if spare < 0:
        return None
    widths = list(least)
    # What is left goes to names first, then to heads.
    for index in sorted(range(len(columns)), key=lambda one: not columns[one].words):
        more = min(max(longest[index], cell_len(columns[index].head)) - widths[index], spare)
        widths[index] += max(more, 0)
        spare -= max(more, 0)
    return widths


def _table(
    columns: Sequence[TableColumn], cells: Sequence[Sequence[str]], widths: Sequence[int], *, has_total: bool
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            column.head, justify="left" if column.words else "right", overflow="fold", width=width
        )
    for count, row in enumerate(cells, 1):
        table.add_row(*map(Text, row), end_section=has_total and count == len(cells) - 1)
    return table


def _print_blocks(console: Console, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Each row as lines of `name  value`, which a terminal may break but never shortens."""
    longest = max(map(cell_len, heads))
    for row in cells:
        for head, cell in zip(heads, row, strict=True):
            console.out(f"{head}{' ' * (longest - cell_len(head))}  {cell}", highlight=False)
        console.out("")
