"""Tables as CSV: what a spreadsheet and a database load without being told anything."""

import csv
import datetime as dt
import io
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from gateway.core.table import Column, ColumnKind, Table, csv_text

TOKYO = ZoneInfo("Asia/Tokyo")


def test_cells_are_written_by_their_kind() -> None:
    columns = [
        Column("a"),
        Column("b", ColumnKind.INTEGER),
        Column("c", ColumnKind.MONEY),
        Column("d", ColumnKind.MOMENT),
    ]
    moment = dt.datetime(2026, 11, 1, tzinfo=TOKYO)
    table = Table(columns, [["x", -1, Decimal("1E-9"), moment], ["", None, Decimal("0E-9"), None]])
    assert csv_text(table) == ("a,b,c,d\r\nx,-1,0.000000001,2026-10-31T15:00:00Z\r\n,,0.000000000,\r\n")


def test_any_text_comes_back_as_it_was() -> None:
    texts = ['say "no"', "a,b", "two\nlines", "顧客", " edge ", "\r"]
    table = Table(
        [Column("n", ColumnKind.INTEGER), Column("text")], [[n, text] for n, text in enumerate(texts)]
    )
    read = list(csv.reader(io.StringIO(csv_text(table), newline="")))
    assert [row[1] for row in read[1:]] == texts


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\uff1dcmd|' /C calc'!A0", " =1"])
def test_no_spreadsheet_runs_a_cell(text: str) -> None:
    table = Table([Column("text"), Column("usd", ColumnKind.MONEY)], [[text, Decimal(-1)]])
    ((_, *_), (cell, usd)) = csv.reader(io.StringIO(csv_text(table), newline=""))
    assert cell == f"'{text}"
    assert usd == "-1", "numbers are ours"
