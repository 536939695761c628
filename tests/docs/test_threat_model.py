"""SECURITY.md names files that are there, and has a table for each boundary."""

import re

from tests.docs.source import ROOT

PAGE = (ROOT / "SECURITY.md").read_text()
BOUNDARIES = (
    *("Client to data port", "Operator to admin port", "Gateway to upstream", "Gateway to Redis"),
    *("Gateway to database", "Disk", "Supply chain"),
)


def test_what_holds_against_a_threat_is_a_file_that_exists() -> None:
    named = re.findall(r"`((?:gateway|tests|deploy)/[^`]*)`", PAGE)
    assert len(named) > 25
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_each_boundary_has_threats_with_what_holds_and_what_remains() -> None:
    for boundary in BOUNDARIES:
        section = PAGE.partition(f"### {boundary}\n")[2].partition("\n##")[0]
        rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
        assert len(rows) >= 3, boundary
        for row in rows:
            assert len(row) == 4, row
            assert set(row[0].split()) <= set("STRIDE"), row
            assert all(cell.strip() for cell in row), row
