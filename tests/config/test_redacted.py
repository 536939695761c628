"""What is kept of a file: all of it, but never a secret that stands in it."""

from pathlib import Path

import pytest

from gateway.config.load import load, version_of
from gateway.config.redacted import REDACTED, WITHHELD, RedactedText, redacted_text
from tests.core.files import ENVIRON, EXAMPLE, changed, loaded

SECRET = "sk-live-0123456789"


def redacted(folder: Path, text: str) -> RedactedText:
    found = loaded(folder, text)
    assert found.settings is not None, found.errors
    return redacted_text(found.text, found.root, found.settings)


def test_variables_are_kept_as_they_stand_and_the_text_is_whole(tmp_path: Path) -> None:
    assert redacted(tmp_path, EXAMPLE) == RedactedText(EXAMPLE, whole=True)
    assert not any(value in EXAMPLE for value in ENVIRON.values())


def test_the_text_that_is_kept_has_the_version_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tollway.yaml"
    for content in (EXAMPLE, "\ufeff" + EXAMPLE, EXAMPLE.replace("\n", "\r\n")):
        path.write_bytes(content.encode())
        found = load(path, ENVIRON)
        assert found.settings is not None
        text = redacted_text(found.text, found.root, found.settings).text
        assert version_of(text.encode()) == found.version


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"${OPENAI_API_KEY}"', SECRET),
        ('"${OPENAI_API_KEY}"', f"'{SECRET}'"),
        ('secret: "${TRIAGE_KEY}"', f"secret: {SECRET}"),
        ('token: "${TOLLWAY_ADMIN_TOKEN}"', f"token: {SECRET}"),
        ("ledger: sqlite:///var/tollway.db", f"ledger: postgresql://tollway:{SECRET}@db/ledger"),
        ("ledger: sqlite:///var/tollway.db", f"ledger: postgresql://db/ledger?password={SECRET}"),
        ("    zone: external", f"    proxy: http://user:{SECRET}@proxy:3128\n    zone: external"),
        ("    zone: external", f"    proxy: http://{SECRET}@proxy:3128\n    zone: external"),
    ],
)
def test_a_secret_that_was_written_down_is_taken_out(tmp_path: Path, old: str, new: str) -> None:
    found = redacted(tmp_path, changed((old, new)))
    assert SECRET not in found.text
    assert REDACTED in found.text
    assert not found.whole
    assert found.text.count("\n") == changed((old, new)).count("\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ledger: sqlite:///var/tollway.db", "ledger: postgresql://tollway@db/ledger"),
        ("    zone: external", "    proxy: http://proxy:3128\n    zone: external"),
    ],
)
def test_an_address_without_a_password_is_no_secret(tmp_path: Path, old: str, new: str) -> None:
    text = changed((old, new))
    assert redacted(tmp_path, text) == RedactedText(text, whole=True)


@pytest.mark.parametrize(
    "written",
    [r'"sk-live\u002d0123456789"', ">-\n      sk-live-0123456789"],
    ids=["escaped", "folded"],
)
def test_a_secret_in_a_form_that_cannot_be_found_again_withholds_the_text(
    tmp_path: Path, written: str
) -> None:
    text = changed(('"${OPENAI_API_KEY}"', written))
    assert redacted(tmp_path, text) == RedactedText(WITHHELD, whole=False)


@pytest.mark.parametrize(
    "comment",
    [
        f"# api_key: {SECRET}",
        f"#secret = '{SECRET}'",
        "# token: hunter2hunter2",
        "# password: correct-horse",
        "# the old one was AKIAIOSFODNN7EXAMPLE0",
        "# use Bearer abcdefgh",
        "# postgresql://tollway:pw@db/ledger was https://user:pw@proxy",
        "# alerts went to https://hooks.slack.com/services/T000/B000/XXXX",
        "# webhook: https://example.com/abc",
        "# eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
@pytest.mark.parametrize("place", ["    zone: external", "ledger: sqlite:///var/tollway.db"])
def test_a_key_in_a_comment_is_not_kept(tmp_path: Path, comment: str, place: str) -> None:
    for text in (changed((place, f"{place}  {comment}")), changed((place, f"{comment}\n{place}"))):
        found = redacted(tmp_path, text)
        assert comment not in found.text
        assert comment.lstrip("# ")[-10:] not in found.text
        assert f"# {REDACTED}" in found.text
        assert not found.whole
        assert found.text.count("\n") == text.count("\n")


def test_a_secret_of_the_environment_that_a_comment_repeats_is_not_kept(tmp_path: Path) -> None:
    value = next(value for value in ENVIRON.values() if len(value) >= 8)
    found = redacted(tmp_path, changed(("    zone: external", f"    zone: external  # same as {value}")))
    assert value not in found.text


@pytest.mark.parametrize(
    "comment",
    [
        "# GPT-4o for those who pay; see docs/prices.md",
        "# the key of triage is in the vault",
        "# secret: from the environment",
        '# api_key: "${OTHER_KEY}"',
        "# tokens per minute: 200000, as agreed on 2026-11-01",
    ],
)
def test_what_people_say_in_comments_is_kept(tmp_path: Path, comment: str) -> None:
    text = changed(("    zone: external", f"    zone: external  {comment}"))
    assert redacted(tmp_path, text) == RedactedText(text, whole=True)


def test_a_webhook_is_a_secret(tmp_path: Path) -> None:
    hook = "https://chat.example/in/a1?sig=b2"
    old = "usd: 20000, per: month"
    text = changed((old, f"{old}, alert_at: [80], webhook: '{hook}'"))
    found = redacted(tmp_path, text)
    assert hook not in found.text
    assert REDACTED in found.text
    settings = loaded(tmp_path, text).settings
    assert settings is not None
    assert hook not in repr(settings)
    assert settings.org.budgets[0].webhook is not None
    assert settings.org.budgets[0].webhook.get_secret_value() == hook
