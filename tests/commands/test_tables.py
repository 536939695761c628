"""In no terminal is a digit cut, however narrow it is and however long the names are."""

import re

import pytest
from rich.cells import cell_len

from gateway.commands.tables import number, print_table, words

COLUMNS = [
    words("feature"),
    number("requests"),
    number("cost USD"),
    number("unseen", spare=2),
    number("on gpt-4o", spare=1),
]
NAMES = (
    "契約書レビュー・国際取引先との秘密保持契約の確認",
    "literature-triage-of-the-research-department",
    "qa",
)
ROWS = [(name, "123,456,789", "987,654,321.123456", "111,222,333.44", "555,666,777.88") for name in NAMES]
TOTAL = ("total", "370,370,367", "2,962,962,963.370368", "333,667,000.32", "1,667,000,333.64")


def printed(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(COLUMNS, ROWS, total=TOTAL)
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", range(20, 140))
def test_every_number_of_every_row_is_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(columns, monkeypatch, capsys)
    left_out = re.findall(r"Left out for want of room: (.*)\. --format", shown)
    for row in (*ROWS, TOTAL):
        for column, cell in zip(COLUMNS[1:], row[1:], strict=True):
            found = re.search(rf"(?<![\d,.]){re.escape(cell)}(?![\d,.])", shown)
            assert found or column.head in left_out[0].split(", "), (columns, column.head)
    assert "…" not in shown


@pytest.mark.parametrize("columns", range(60, 140))
def test_a_table_is_no_wider_than_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(columns, monkeypatch, capsys)
    lines = [line for line in shown.splitlines() if not line.startswith("Left out")]
    assert max(map(cell_len, lines)) <= columns


def test_what_is_left_out_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(80, monkeypatch, capsys)
    assert "111,222,333.44" not in shown
    assert "Left out for want of room: unseen" in shown
    assert "Left out" not in printed(400, monkeypatch, capsys)


def test_where_nothing_fits_each_row_is_a_block(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(30, monkeypatch, capsys)
    assert re.search(r"^requests\s+123,456,789$", shown, re.MULTILINE)
    assert re.search(r"^unseen\s+111,222,333.44$", shown, re.MULTILINE), "a block has room for every column"


def test_a_pipe_has_room_for_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(COLUMNS, ROWS, total=TOTAL)
    shown = capsys.readouterr().out
    for name in NAMES:
        assert name in shown
