"""The documented example file, changed and built as `serve` builds it."""

import datetime
from pathlib import Path

from gateway.config.build import Built, build
from gateway.config.load import Loaded, load
from gateway.config.problems import Problem
from gateway.finance.price_catalogue import PriceCatalogue

EXAMPLE = (Path(__file__).parents[1] / "config" / "example.yaml").read_text()
TODAY = datetime.date(2026, 11, 23)
ENVIRON = {
    "TOLLWAY_ADMIN_TOKEN": "admin-token-0123456789",
    "OPENAI_API_KEY": "sk-hunter2-0123456789",
    "TRIAGE_KEY": "triage-key-0123456789",
}
PRICES = PriceCatalogue()


def changed(*replacements: tuple[str, str]) -> str:
    """The example with pieces of its text replaced."""
    text = EXAMPLE
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def loaded(folder: Path, text: str) -> Loaded:
    path = folder / "tollway.yaml"
    path.write_text(text)
    return load(path, ENVIRON, today=TODAY)


def problems(folder: Path, *replacements: tuple[str, str]) -> list[Problem]:
    """What stands in the way of the changed example; its file is called tollway.yaml."""
    made, found = build(loaded(folder, changed(*replacements)), PRICES)
    assert made is None
    return found


def built(folder: Path, *replacements: tuple[str, str]) -> Built:
    found = loaded(folder, changed(*replacements))
    assert [str(problem) for problem in found.errors] == []
    made, wrong = build(found, PRICES)
    assert [str(problem) for problem in wrong] == []
    assert made is not None
    return made
