"""Tables for a terminal in which no digit is ever cut.

What does not fit loses columns that can be spared, and at last stands as a block of lines for each row.
Output that goes to no terminal has room for everything.
"""

import shutil
from collections.abc import Sequence

import msgspec
import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

ROOM_OF_A_PIPE = 1000  # columns
NARROWEST_NAME = 12  # columns; names wrap down to this


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
    width = shutil.get_terminal_size((ROOM_OF_A_PIPE, 24)).columns
    console = Console(width=width, highlight=False)
    shown = list(range(len(columns)))
    cells = [[printable(cell) for cell in row] for row in (*rows, *(() if total is None else (total,)))]
    spared = sorted((one for one in shown if columns[one].spare), key=lambda one: columns[one].spare)
    if title is not None:
        console.print(Text(title))
    while True:
        kept, kept_cells = [columns[one] for one in shown], [[row[one] for one in shown] for row in cells]
        if _least_width(console, kept, kept_cells) <= width:
            console.print(_table(kept, kept_cells, has_total=total is not None))
            break
        if not spared:
            shown = list(range(len(columns)))
            _print_blocks(console, [column.head for column in columns], cells)
            break
        shown.remove(spared.pop())
    if left_out := [column.head for index, column in enumerate(columns) if index not in shown]:
        typer.echo(f"Left out for want of room: {', '.join(left_out)}. --format json has them.")


def printable(value: str) -> str:
    """`value`, which a client may have written, without what would move a terminal's cursor."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value)


def _table(columns: Sequence[TableColumn], cells: Sequence[Sequence[str]], *, has_total: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        longest = max((cell_len(row[index]) for row in cells), default=0)
        if column.words:
            table.add_column(column.head, overflow="fold", min_width=min(longest, NARROWEST_NAME))
        else:
            head = max((cell_len(word) for word in column.head.split()), default=0)
            table.add_column(column.head, justify="right", min_width=max(longest, head))
    for number_of, row in enumerate(cells, 1):
        is_last = has_total and number_of == len(cells) - 1
        table.add_row(*map(Text, row), end_section=is_last)
    return table


def _least_width(console: Console, columns: Sequence[TableColumn], cells: Sequence[Sequence[str]]) -> int:
    """The narrowest terminal, in columns, for these `cells`: their names may wrap."""
    narrow = [
        ["" if column.words else cell for column, cell in zip(columns, row, strict=True)] for row in cells
    ]
    names = [
        "x" * min(max((cell_len(row[index]) for row in cells), default=0), NARROWEST_NAME)
        if column.words
        else ""
        for index, column in enumerate(columns)
    ]
    # Measured as if there were room: what is measured for a width is never wider than that.
    room = console.options.update(width=ROOM_OF_A_PIPE)
    return Measurement.get(console, room, _table(columns, [*narrow, names], has_total=False)).minimum


def _print_blocks(console: Console, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Each row as lines of `name  value`, which a terminal may break but never shortens."""
    longest = max(map(cell_len, heads))
    for row in cells:
        for head, cell in zip(heads, row, strict=True):
            console.out(f"{head}{' ' * (longest - cell_len(head))}  {cell}", highlight=False)
        console.out("")
