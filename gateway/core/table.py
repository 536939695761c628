"""A report as a table: named columns of one kind each, and what their cells look like as text."""

import csv
import datetime as dt
import enum
import io
from collections.abc import Sequence
from decimal import Decimal

import msgspec

Cell = str | int | Decimal | dt.datetime | None


class ColumnKind(enum.Enum):
    TEXT = enum.auto()
    INTEGER = enum.auto()
    MONEY = enum.auto()  # Decimal with at most nine digits after the point
    MOMENT = enum.auto()  # aware datetime


class Column(msgspec.Struct, frozen=True):
    name: str
    kind: ColumnKind = ColumnKind.TEXT


class Table(msgspec.Struct, frozen=True):
    """`rows` have one cell for each of `columns`; None is a cell without a value."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


# A spreadsheet runs a cell that begins with one of these, also in their full width or after white space.
_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_text(table: Table) -> str:
    """`table` as RFC 4180 has it. No value is an empty field.

    A text that a spreadsheet would run gets an apostrophe before it: clients write tags, and so such texts.
    """
    out = io.StringIO()
    writer = csv.writer(out)  # ends lines with CR LF, and so quotes a text that has one of them
    writer.writerow([column.name for column in table.columns])
    writer.writerows([_text(cell) for cell in row] for row in table.rows)
    return out.getvalue()


def _text(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case Decimal():
            return f"{cell:f}"  # never with an exponent
        case dt.datetime():
            return cell.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case str():
            return f"'{cell}" if cell.lstrip().startswith(_FORMULA_STARTS) else cell
        case _:
            return str(cell)
