"""Configuration files: whatever stands in one, it loads or says what is wrong and where."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from gateway.config.load import Loaded, load, version_of
from tests.fuzz.target import Target

TODAY = datetime.date(2026, 11, 23)
ENVIRON = {"KEY": "hunter2-0123456789", "EMPTY": ""}
PATH = Path("tollway.yaml")

TOKENS = (
    *(
        b"\n",
        b": ",
        b"- ",
        b"  ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"!!python/object:x ",
        b"|\n",
    ),
    *(
        b"${KEY}",
        b"${NO}",
        b"${",
        b"$${",
        b"${EMPTY}",
        b"null",
        b"~",
        b"true",
        b"1e999",
        b".nan",
        b"-1",
        b"#",
    ),
    *(b"server:", b"zones:", b"privacy:", b"deployments:", b"models:", b"keys:", b"features:", b"teams:"),
    *(b"2026-11-30", b"'", b'"', b"\xe2\x80\xa8", b"\t", b"---\n", b"%YAML 1.1\n", b"? ", b"10.0.0.0/8"),
    *(b"when: 'feature == \"a\"'", b"0x1f", b"1_000", b"12:30:45", b"http://[::1]", b"\xef\xbb\xbf"),
)


def _said(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in (*loaded.errors, *loaded.warnings)]


def check(data: bytes, _cuts: Sequence[int]) -> None:
    """It never raises. There are settings exactly when there is no error; each error has a line."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return  # `read_text` refuses it before anything else sees it
    loaded = load(PATH, ENVIRON, today=TODAY, text=text)
    assert (loaded.settings is None) == bool(loaded.errors)
    lines = len(text.splitlines()) + 1
    for problem in (*loaded.errors, *loaded.warnings):
        assert problem.line is None or 1 <= problem.line <= lines, problem
        assert ENVIRON["KEY"] not in str(problem), "a problem shows a secret"
    assert loaded.version == version_of(text.encode())
    assert _said(load(PATH, ENVIRON, today=TODAY, text=text)) == _said(loaded)


CONFIG_FILE = Target("config_file", check, TOKENS, (150_000, 2_000, 0))
