"""docs/architecture.md: its paths exist, its layers are the enforced ones, its request goes the real way.

And of every page: its links lead somewhere.
"""

import re
import tomllib
from pathlib import Path

import pytest
import uvloop

from benchmarks.request_trace import trace
from tests.docs.blocks import blocks
from tests.docs.source import GATEWAY, ROOT

PAGES = ["docs/architecture.md", "CONTRIBUTING.md", "SECURITY.md"]
ALL_PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "docs", ROOT / "docs/decisions")
    for path in folder.glob("*.md")
)
PAGE = (ROOT / PAGES[0]).read_text()
TOPS = ("gateway/", "tests/", "docs/", "benchmarks/", "deploy/", "helm/")
_PATH = re.compile(r"`([\w./-]+)`")
_LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
_CODE = re.compile(r"```.*?```", re.DOTALL)


def paths(page: str) -> list[str]:
    """What is written as code and looks like a path from the top of this repository."""
    found = _PATH.findall((ROOT / page).read_text())
    return [path for path in found if path.startswith(TOPS) or path.endswith((".md", ".toml"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    assert [path for path in paths(page) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    """Links within the repository: the file exists, and the heading that is named after `#`."""
    text = _CODE.sub("", (ROOT / page).read_text())
    missing = []
    for link, heading in _LINK.findall(text):
        target = (ROOT / page).parent / link if link else ROOT / page
        if not target.exists() or (heading and heading not in headings(target)):
            missing.append(f"{link}#{heading}")
    assert missing == []


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", _CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_room_is_named_once() -> None:
    named = re.findall(r"^\| `(\w+)` \|", section("Rooms"), re.MULTILINE)
    rooms = [path.name for path in GATEWAY.iterdir() if (path / "__init__.py").exists()]
    assert sorted(named) == sorted(rooms)


def test_every_loose_file_is_named() -> None:
    loose = {f"gateway/{path.name}" for path in GATEWAY.glob("*.py")} - {"gateway/__init__.py"}
    assert loose <= set(_PATH.findall(section("Rooms")))


def test_the_layers_are_those_that_import_linter_holds() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    (block,) = blocks(PAGES[0], "text")
    assert block.text.splitlines() == layers


def steps() -> list[str]:
    """The files of the numbered steps in their order: those before each step's colon."""
    items = re.split(r"^\d+\. ", section("The life of one chat request"), flags=re.MULTILINE)[1:]
    return [path for item in items for path in _PATH.findall(item.partition(": ")[0])]


def test_a_request_meets_the_files_in_the_order_of_the_page() -> None:
    met = [f"gateway/{file}" for file in uvloop.run(trace(stream=False)).files]
    assert [file for file in steps() if file not in met] == []
    assert [file for file in met if file in steps()] == steps()


def test_the_page_is_one_page() -> None:
    assert len(PAGE.splitlines()) <= 130
    assert Path(ROOT / "docs" / "architecture.md").stat().st_size < 10_000
