"""A `tollway.yaml` in a directory of its own, loaded as `tollway.yaml` so that rendered lines are exact."""

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config.load import Loaded, load

EXAMPLE = (Path(__file__).parent / "example.yaml").read_text()
ENVIRON = {
    "TOLLWAY_ADMIN_TOKEN": "admin-token-0123456789",
    "OPENAI_API_KEY": "sk-hunter2-0123456789",
    "TRIAGE_KEY": "triage-key-0123456789",
    "PORT": "9090",
    "WORD": "hunter2",
}
TODAY = datetime.date(2026, 11, 23)


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loaded]:
    """Loads the given text (or bytes) with ENVIRON, or with what is given."""
    monkeypatch.chdir(tmp_path)

    def read_text(text: str | bytes, environ: dict[str, str] | None = None) -> Loaded:
        content = text if isinstance(text, bytes) else text.encode()
        Path("tollway.yaml").write_bytes(content)
        return load(Path("tollway.yaml"), ENVIRON if environ is None else environ, today=TODAY)

    return read_text


@pytest.fixture
def changed(read: Callable[..., Loaded]) -> Callable[[str, str], Loaded]:
    """The example with one piece of its text replaced."""

    def read_changed(old: str, new: str) -> Loaded:
        assert EXAMPLE.count(old) >= 1, old
        return read(EXAMPLE.replace(old, new, 1))

    return read_changed


@pytest.fixture
def example() -> str:
    return EXAMPLE
