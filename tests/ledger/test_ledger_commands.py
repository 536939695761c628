"""`tollway ledger` and `tollway prices`, as a person at the terminal uses them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.ledger.postgres.partitions import Month
from gateway.ledger.reports import usage_by
from gateway.ledger.revisions import HEAD as NEWEST
from gateway.ledger.revisions import LEAST_TABLE
from tests.ledger.command_config import config_file
from tests.ledger.ledger_records import make, run

Database = Any

SET = ["prices", "set", "vllm", "scout"]
RATES = ["--from", "2026-02-01", "--input", "1", "--output", "1"]


@pytest.fixture
def config(sqlite: Database, tmp_path: Path) -> Path:
    path = config_file(tmp_path, sqlite.url)

    async def scenario() -> None:
        writer = sqlite.writer()
        await writer.start()
        for number in range(10):
            at = Month(2026, 1 + number % 3).starts + number
            writer.append(make(number, at=at, cost_nano_usd=1_000_000_000))
        await writer.close()

    run(scenario())
    return path


def tollway(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(config)])


def test_a_month_is_closed_deleted_and_its_totals_stay(config: Path, sqlite: Database) -> None:
    refused = tollway(config, "ledger", "prune", "--before", "2026-02", "--yes")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "tollway ledger prune: ledger: only closed periods can be deleted; close it first\n",
    )
    assert (
        tollway(config, "ledger", "close", "2026-01", "--yes").stdout
        == "Closed up to and including 2026-01.\n"
    )
    done = tollway(config, "ledger", "prune", "--before", "2026-02", "--yes")
    assert done.stdout == "Deleted 4 rows before 2026-02; their totals stay.\n", done.output
    assert usage_by(sqlite.url, "org")[0].attempts == 10
    rebuilt = tollway(config, "ledger", "rebuild")
    assert rebuilt.stdout == "Totals of 6 rows rebuilt: 10.000000000 USD, as before.\n"


def test_deleting_asks_first(config: Path, sqlite: Database) -> None:
    tollway(config, "ledger", "close", "2026-01", "--yes")
    assert tollway(config, "ledger", "prune", "--before", "2026-02").exit_code == 1
    assert len(sqlite.rows()) == 10


def test_closing_asks_first(config: Path) -> None:
    assert tollway(config, "ledger", "close", "2026-01").exit_code == 1
    assert "Closed before: nothing." in tollway(config, "ledger", "status").stdout


def test_what_was_done_is_told_as_json_too(config: Path) -> None:
    def told(*words: str) -> Any:
        return json.loads(tollway(config, "ledger", *words, "--format", "json").stdout)

    state = {"closed_before": None, "pruned_before": None, "rows": 10, "corrections": 0}
    assert told("status") == state | {"cost_usd": "10.000000000"}
    assert told("close", "2026-01", "--yes") == {"closed_before": "2026-02-01"}
    assert told("prune", "--before", "2026-02", "--yes") == {"pruned_before": "2026-02-01", "rows_deleted": 4}
    state = {"closed_before": "2026-02-01", "pruned_before": "2026-02-01", "rows": 6, "corrections": 0}
    assert told("status") == state | {"cost_usd": "10.000000000"}
    totals = {"cost_usd_before": "10.000000000", "cost_usd": "10.000000000"}
    assert told("rebuild") == {"rows": 6} | totals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ledger", "close", "October"], "write a month as 2026-10"),
        (["ledger", "close", "2199-01", "--yes"], "has not ended yet"),
        (
            [*SET, "--from", "2026-01-01", "--input", "cheap", "--output", "1"],
            "must be a number",
        ),
        (
            [*SET, "--from", "2026-01-01", "--input", "-1", "--output", "1"],
            "must be >= 0",
        ),
        (["prices", "import", "/nowhere.csv"], "No such file"),
        ([*SET, *RATES, "--unit", "cache_write"], "'cache_write': write another unit"),
        ([*SET, *RATES, "--unit", "=3"], "'=3': write another unit"),
        ([*SET, *RATES, "--unit", "provider=azure"], "'provider=azure': write another unit"),
        ([*SET, *RATES, "--unit", "output_image=1", "--unit", "output_image=2"], "'output_image=2': write"),
    ],
)
def test_wrong_words_are_told_in_a_line(config: Path, words: list[str], said: str) -> None:
    done = tollway(config, *words)
    assert done.exit_code in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_prices_are_set_listed_imported_and_applied(config: Path, sqlite: Database, tmp_path: Path) -> None:
    words = ["prices", "set", "vllm", "scout", "--from", "2026-02-01", "--input", "0.30", "--output", "1.2"]
    entered = tollway(config, *words)
    assert entered.stdout == "Entered 1 price.\n"
    assert "`tollway prices reprice` corrects them" in entered.stderr
    listed = tollway(config, "prices", "list").stdout
    assert listed.splitlines() == [
        "provider,model,tier,from,version,input,cached_input,output,input_audio,output_audio",
        "vllm,scout,standard,2026-02-01,prices-2026-02-01,0.3,0.3,1.2,0.3,1.2",
    ]
    again = tmp_path / "prices.csv"
    again.write_text(listed)
    assert tollway(config, "prices", "import", str(again)).stdout == "Entered 1 price.\n"
    again.write_text(listed.replace(",1.2,0.3", ",1.3,0.3"))
    changed = tollway(config, "prices", "import", str(again))
    assert changed.exit_code == 1
    assert "prices never change" in changed.stderr
    words = ["prices", "reprice", "--since", "2026-01-01", "--until", "2026-03-02"]
    shown = tollway(config, *words, "--dry-run")
    first, last = shown.stdout.splitlines()
    assert first.startswith("llama-4-scout: 6 rows from ")
    assert " to prices-2026-02-01, 6.000000000 USD to " in first
    assert last.startswith("Looked at 10 rows, would correct 6: 6.000000000 USD would become ")
    as_json = json.loads(tollway(config, *words, "--dry-run", "--format", "json").stdout)
    assert (as_json["corrected"], [one["rows"] for one in as_json["changes"]]) == (6, [6])
    by_name = tollway(config, "prices", "reprice", "--period", "2026-Q1", "--dry-run")
    assert by_name.stdout == shown.stdout
    unnamed = tollway(config, "prices", "reprice", "--dry-run")
    assert (unnamed.exit_code, "say what to correct" in unnamed.stderr) == (2, True)
    assert tollway(config, *words).exit_code == 1  # nobody answers
    assert len(sqlite.rows()) == 10
    done = tollway(config, *words, "--yes")
    assert done.stdout.startswith("Looked at 10 rows, corrected 6: 6.000000000 USD became "), done.output
    assert len(sqlite.rows()) == 22
    again_shown = tollway(config, *words)
    assert again_shown.exit_code == 0  # there is nothing to ask
    assert "would correct 0" in again_shown.stdout


def test_prices_are_listed_as_json_too(config: Path) -> None:
    words = [
        "prices",
        "set",
        "vllm",
        "scout",
        "--from",
        "2026-02-01",
        "--input",
        "0.30",
        "--output",
        "0",
        "--version",
        "deal",
    ]
    tollway(config, *words)
    assert json.loads(tollway(config, "prices", "list", "--format", "json").stdout) == [
        {
            "provider": "vllm",
            "model": "scout",
            "tier": "standard",
            "from": "2026-02-01",
            "version": "deal",
            "input": "0.3",
            "cached_input": "0.3",
            "output": "0",
            "input_audio": "0.3",
            "output_audio": "0",
        }
    ]


HEAD = "provider,model,tier,from,version,input,output\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "vllm,scout,,2026-02-01,,0.3,1\nvllm,scout,,soon,,0.3,1\n", "prices.csv:3: "),
        (
            "provider,model,from,input,outptu\nvllm,scout,2026-02-01,1,2\n",
            "prices.csv:2: unknown column outptu",
        ),
        ("provider,from,input\nvllm,2026-02-01,1\n", "prices.csv:2: needs provider and model"),
        (HEAD + "vllm,scout,,2026-02-01,,0.3,1,5\n", "prices.csv:2: has more values"),
        (HEAD + "vllm,scout,,2026-02-01,,NaN,1\n", "prices.csv:2: a price must be >= 0"),
        (
            HEAD + "vllm,scout,default,2026-02-01,,1,1\n",
            "csv:2: unknown tier default; known are standard",
        ),
        ("provider,model,from,input\nvllm,scout,2026-02-01,1\n", "prices.csv:2: needs an output price"),
        ("provider,model,input\nvllm,scout,1\n", "prices.csv:2: column from is missing"),
    ],
)
def test_a_wrong_line_of_a_price_file_is_named_and_nothing_is_entered(
    config: Path, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "prices.csv"
    file.write_text(text)
    done = tollway(config, "prices", "import", str(file))
    assert done.exit_code == 1
    assert said in done.stderr
    assert len(tollway(config, "prices", "list").stdout.splitlines()) == 1


def test_bands_hours_and_units_are_lines_and_columns_that_list_prints_and_import_takes(
    config: Path, tmp_path: Path
) -> None:
    lines = [
        "provider,model,tier,from,version,input,output,cache_write,per_search,above,hours",
        "vllm,scout,,2026-02-01,list,2,10,2.5,0.01,,",
        "vllm,scout,,2026-02-01,list,4,15,5,,272000,",
        "vllm,scout,,2026-02-01,list,1,5,,,,mon 16:30-00:30",
    ]
    file = tmp_path / "prices.csv"
    file.write_text("\n".join(lines) + "\n")
    assert "Entered 1 price." in tollway(config, "prices", "import", str(file)).stdout
    listed = tollway(config, "prices", "list").stdout
    assert len(listed.splitlines()) == 5  # the hours have a band too, in proportion
    assert "mon 16:30-00:30" in listed
    file.write_text(listed)
    assert tollway(config, "prices", "import", str(file)).exit_code == 0  # nothing new
    assert tollway(config, "prices", "list").stdout == listed
    file.write_text(listed.replace(",2.5,", ",3.5,"))
    assert "has another unit, band or hour price" in tollway(config, "prices", "import", str(file)).stderr


@pytest.mark.parametrize(
    ("provider", "model"), [("vllm", "scuot"), ("vlm", "scout"), ("opnai", "gpt-4o"), ("openai", "gpt-4oo")]
)
def test_a_price_of_a_model_that_nobody_knows_is_refused(config: Path, provider: str, model: str) -> None:
    words = ["prices", "set", provider, model, "--from", "2026-02-01", "--input", "1", "--output", "1"]
    done = tollway(config, *words)
    assert done.exit_code == 1
    assert f"no deployment of this configuration is {provider}/{model}, no price was entered" in done.stderr
    assert ("did you mean 'vllm/scout'?" in done.stderr.lower()) is (provider in {"vllm", "vlm"})
    assert len(tollway(config, "prices", "list").stdout.splitlines()) == 1
    done = tollway(config, *words, "--new")
    assert done.stdout == "Entered 1 price.\n"
    assert f"no deployment of this configuration is {provider}/{model}" in done.stderr
    later = [*words[:5], "2026-03-01", *words[6:]]
    assert tollway(config, *later).exit_code == 0  # it is known now


def test_a_price_of_the_catalogue_needs_no_deployment(config: Path) -> None:
    done = tollway(
        config, "prices", "set", "openai", "gpt-4o", "--from", "2026-02-01", "--input", "1", "--output", "1"
    )
    assert done.stdout == "Entered 1 price.\n"
    assert "no deployment of this configuration is openai/gpt-4o" in done.stderr


def migrated(url: str, folder: Path) -> Any:
    config = config_file(folder, url)
    done = tollway(config, "ledger", "migrate", "--format", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_rollout_makes_the_ledger_beforehand_and_again_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    assert migrated(database.url, tmp_path) == {"before": None, "after": NEWEST}
    assert database.rows() == []
    assert migrated(database.url, tmp_path) == {"before": NEWEST, "after": NEWEST}


def test_a_migration_that_cannot_be_done_says_why(config: Path, sqlite: Database) -> None:
    sqlite.execute(f"UPDATE {LEAST_TABLE} SET version_num = '9999'")
    done = tollway(config, "ledger", "migrate")
    assert done.exit_code == 1
    assert f"is at revision 9999, this Tollway knows up to {NEWEST}" in done.stderr
