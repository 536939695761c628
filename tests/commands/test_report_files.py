"""Reports need nothing of the file that they do not use, and a check in CI needs no secrets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from gateway.cli import app

FILE = """
server: {{admin: {{token: "${{ADMIN_TOKEN}}"}}, key_pepper: "${{PEPPER}}"}}
ledger: sqlite:///{folder}/ledger.db
audit: {{signing_key: "${{AUDIT_KEY}}"}}
zones: {{local: {{cidrs: [127.0.0.0/8]}}, outside: {{}}}}
privacy: {{classes: [internal], default: internal, zones: {{internal: [local, outside]}}}}
deployments:
  gpt-4o:
    provider: openai
    model: gpt-4o-2024-11-20
    base_url: "${{OPENAI_URL}}/v1"
    api_key: "${{OPENAI_API_KEY}}"
    headers: {{x-tenant: "${{TENANT}}"}}
    zone: outside
  scout:
    provider: vllm
    model: meta-llama/Llama-4-Scout-17B-16E-Instruct
    zone: local
    context_tokens: 131072
    max_output_tokens: 8192
    replicas: {{urls: ["http://127.0.0.1:9301/v1"]}}
    cost: {{gpu: H100-80GB, gpus_per_replica: 8, usd_per_gpu_hour: 2.99, saturation_tokens_per_second: 2600}}
models: {{auto: {{use: [scout, gpt-4o]}}}}
org: {{name: acme, timezone: Europe/Berlin, budgets: [{{usd: 20, per: month, webhook: "https://${{HOOK_HOST}}/x"}}]}}
teams: {{research: {{}}}}
features: {{triage: {{team: research}}}}
keys:
  app: {{secret: "${{APP_KEY}}", feature: triage}}
  other: {{secret: "${{OTHER_KEY}}", feature: triage}}
"""
PRICES = "provider,model,from,input,output\nopenai,gpt-4o-2024-11-20,2026-02-01,2.5,10\n"
REPORTS = (
    ("usage",),
    ("usage", "--format", "json"),
    ("budgets",),
    ("tco",),
    ("export", "focus", "--month", "2026-01"),
    ("policy", "history"),
    ("ledger", "status"),
    ("prices", "list"),
    ("audit", "verify", "--public-key", "0" * 64),
    ("audit", "residency", "--class", "internal", "--public-key", "0" * 64),
    ("audit", "acts", "--public-key", "0" * 64),
)
# These read the whole file, since all of it decides, and serve nothing.
DECIDING = (
    ("policy", "explain", "{file}", "--key", "app", "--model", "auto"),
    ("policy", "test", "{file}"),
    ("policy", "prove", "{file}"),
    ("policy", "diff", "{file}", "{file}"),
    ("prices", "reprice", "--since", "2026-01-01", "--dry-run", "--config", "{file}"),
)
# These sign what they did.
SIGNED = (
    ("ledger", "close", "2026-01", "--yes"),
    ("ledger", "rebuild"),
    ("prices", "set", "openai", "gpt-4o", "--from=2026-01-01", "--input=2", "--output=8", "--version=x"),
    ("prices", "import", "{folder}/prices.csv"),
    ("prices", "reprice", "--since", "2026-01-01", "--yes"),
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tollway.yaml"
    file.write_text(FILE.format(folder=tmp_path))
    (tmp_path / "prices.csv").write_text(PRICES)
    assert tollway("ledger", "migrate", "--config", str(file)).exit_code == 0
    return file


def tollway(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, words)


@pytest.mark.parametrize("words", REPORTS)
def test_a_report_needs_no_secrets(config: Path, words: tuple[str, ...]) -> None:
    done = tollway(*words, "--config", str(config))
    assert done.exit_code == 0, done.output
    assert "is not set" not in done.output


@pytest.mark.parametrize("words", DECIDING)
def test_what_only_decides_needs_no_secrets(config: Path, words: tuple[str, ...]) -> None:
    done = tollway(*(word.format(file=config) for word in words))
    assert done.exit_code == 0, done.output
    assert "is not set" not in done.output


@pytest.mark.parametrize("words", DECIDING)
def test_what_only_decides_wants_all_of_the_file(config: Path, words: tuple[str, ...]) -> None:
    config.write_text(config.read_text().replace("zone: outside", "zone: ${ZONE}"))
    done = tollway(*(word.format(file=config) for word in words))
    assert (done.exit_code, "the environment variable ZONE is not set" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", REPORTS)
def test_a_mistake_elsewhere_in_the_file_is_no_obstacle(config: Path, words: tuple[str, ...]) -> None:
    config.write_text(
        config.read_text().replace("use: [scout, gpt-4o]", "use: [scuot], prefer: cheap") + "\nno: 1\n"
    )
    done = tollway(*words, "--config", str(config))
    assert done.exit_code == 0, done.output
    assert tollway("check", str(config)).exit_code == 1


@pytest.mark.parametrize("words", SIGNED)
def test_what_enters_the_audit_log_needs_the_key_that_signs_it_and_no_other_secret(
    config: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    words = tuple(word.format(folder=config.parent) for word in words)
    refused = tollway(*words, "--config", str(config))
    assert (refused.exit_code, refused.stderr.count("is not set")) == (1, 1)
    assert "audit.signing_key: the environment variable AUDIT_KEY is not set" in refused.stderr
    monkeypatch.setenv("AUDIT_KEY", "5b" * 32)
    done = tollway(*words, "--config", str(config))
    assert done.exit_code == 0, done.output


def test_a_mistake_in_what_a_report_uses_is_told(config: Path) -> None:
    config.write_text(config.read_text().replace("Europe/Berlin", "Europe/Berlinn"))
    done = tollway("usage", "--config", str(config))
    assert (done.exit_code, "org.timezone" in done.stderr) == (1, True)


def test_the_database_of_a_report_must_be_known(config: Path) -> None:
    config.write_text(config.read_text().replace(f"sqlite:///{config.parent}/ledger.db", '"${DATABASE_URL}"'))
    done = tollway("usage", "--config", str(config))
    assert (done.exit_code, "DATABASE_URL is not set" in done.stderr) == (1, True)


def test_a_check_without_secrets_passes_and_says_what_must_be_set(config: Path) -> None:
    refused = tollway("check", str(config))
    assert (refused.exit_code, "OPENAI_API_KEY is not set" in refused.stderr) == (1, True)
    done = tollway("check", "--without-secrets", str(config))
    assert done.exit_code == 0, done.output
    assert "ADMIN_TOKEN, APP_KEY, AUDIT_KEY, HOOK_HOST, OPENAI_API_KEY, OPENAI_URL, OTHER_KEY" in done.stderr


def test_a_check_without_secrets_still_wants_what_decides(config: Path) -> None:
    config.write_text(config.read_text().replace("zone: outside", "zone: ${ZONE}"))
    done = tollway("check", "--without-secrets", str(config))
    assert (done.exit_code, "the environment variable ZONE is not set" in done.stderr) == (1, True)


def test_nothing_serves_with_a_stand_in(config: Path) -> None:
    done = tollway("serve", "--config", str(config))
    assert (done.exit_code, "APP_KEY is not set" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", [("--version",), ("version",)])
def test_the_version_is_told(words: tuple[str, ...]) -> None:
    done = tollway(*words)
    assert (done.exit_code, done.stdout[:1].isdigit()) == (0, True)


@pytest.mark.parametrize("words", [(), ("usage",), ("policy",), ("policy", "diff"), ("prices", "set")])
def test_help_has_a_short_name(words: tuple[str, ...]) -> None:
    assert tollway(*words, "-h").exit_code == 0


def helps(command: TyperGroup | TyperCommand) -> Iterator[str]:
    """Every text of help of `command` and below."""
    for parameter in command.params:
        yield getattr(parameter, "help", None) or ""
    if isinstance(command, TyperGroup):
        for below in command.commands.values():
            yield from helps(below)


def test_no_help_has_brackets_which_its_page_would_take_for_markup_and_leave_out() -> None:
    found = [*helps(get_command(app))]
    assert len(found) > 100
    assert [text for text in found if "[" in text] == []
