"""`tollway policy explain`: the decision on one request, in words and as JSON, each reason with its line."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.core.files import ENVIRON, changed

EMAIL = "write to ada.lovelace@analytical-engines.co.uk"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tollway.yaml").write_text(changed())
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["policy", "explain", "tollway.yaml", *words])


def explained(*words: str) -> dict[str, Any]:
    result = run(*words, "--format", "json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def request_file(text: str = "Hello", **members: Any) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **members}
    Path("R.json").write_text(json.dumps(body))
    return "R.json"


def test_a_request_is_decided_with_class_candidates_lines_and_order():
    header = "x-tollway-privacy: confidential"
    found = explained("--key", "triage-app", "--request", request_file(), "--header", header)
    assert found["privacy"] == {"class": "confidential", "raised_by": "header x-tollway-privacy"}
    assert [(item["deployment"], item["kept"], item["line"]) for item in found["candidates"]] == [
        ("llama-4-scout", True, 55),
        ("gpt-4o", False, 18),
    ]
    assert found["candidates"][1]["reason"] == "zone external is not allowed for confidential"
    assert (found["order"], found["decision"], found["refused"]) == (["llama-4-scout"], "only-privacy", None)


@pytest.mark.parametrize(
    ("words", "privacy", "raised_by"),
    [
        (["--model", "auto"], "internal", "privacy.default"),
        (["--model", "auto", "--key", "triage-app"], "internal", "features.literature-triage.privacy"),
        (["--model", "auto", "--text", EMAIL], "confidential", "detector email"),
        (["--model", "auto", "--modality", "image"], "restricted", "image content"),
        (
            ["--model", "auto", "--text", EMAIL, "--header", "x-tollway-privacy: restricted"],
            "restricted",
            "header x-tollway-privacy",
        ),
    ],
)
def test_what_raised_the_class_is_named(words: list[str], privacy: str, raised_by: str):
    assert explained(*words)["privacy"] == {"class": privacy, "raised_by": raised_by}


def test_the_cost_of_each_deployment_is_estimated():
    found = explained("--model", "auto", "--text", "word " * 1000, "--max-output-tokens", "100")
    costs = {item["deployment"]: item["estimated_cost_usd"] for item in found["candidates"]}
    # About 1,250 tokens of text and some of JSON at 2.50, and 100 of output at 10.00 USD a million.
    assert 0.004 < costs["gpt-4o"] < 0.0043
    assert 0 < costs["llama-4-scout"] < costs["gpt-4o"]


def test_the_rule_that_decides_is_told_with_its_line():
    found = explained("--model", "auto", "--budget-used", "0.9")
    assert found["rule"] == {"number": 2, "line": 59, "when": "budget.used > 0.8"}
    assert found["candidates"][1]["reason"] == "rule 2 (line 59) leaves it out"
    assert found["candidates"][1]["line"] == 59


def test_a_deployment_that_is_down_is_removed_by_no_line_of_the_file():
    found = explained("--model", "auto", "--down", "llama-4-scout")
    removed = next(item for item in found["candidates"] if not item["kept"])
    assert (removed["deployment"], removed["constraint"], removed["line"]) == (
        "llama-4-scout",
        "health",
        None,
    )


def test_the_time_can_be_told():
    after = explained("--model", "gpt-4o", "--at", "2027-01-15T09:00:00")
    assert after["order"] == []
    assert after["refused"]["code"] == "model_retired"
    assert after["candidates"][0]["line"] == 36


def test_a_request_that_gets_no_plan_says_what_the_client_would_be_told():
    found = explained("--model", "llama-4-scout", "--key", "triage-app")
    assert (found["privacy"], found["candidates"]) == (None, [])
    assert (found["refused"]["status"], found["refused"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "curl",
    [
        "curl http://gw/v1/chat/completions -H 'Authorization: Bearer $TRIAGE_KEY' -d @R.json",
        'curl -s -X POST http://gw/v1/chat/completions -H "authorization: Bearer triage-key-0123456789" '
        "--data-binary=@R.json -o out",
        "curl --url http://gw/v1/chat/completions -Hapi-key:triage-key-0123456789 \\\n --json @R.json",
    ],
)
def test_a_curl_line_is_read_with_its_key_headers_and_body(curl: str):
    request_file(EMAIL)
    found = explained("--curl", f"{curl} -H 'x-tollway-privacy: restricted'")
    assert (found["key"], found["feature"]) == ("triage-app", "literature-triage")
    assert found["privacy"]["class"] == "restricted"


def test_a_curl_line_to_an_address_of_azure_asks_for_the_model_in_it():
    body = '{"messages": [{"role": "user", "content": "hi"}]}'
    url = "http://gw/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    found = explained("--curl", f"curl '{url}' -H 'api-key: triage-key-0123456789' -d '{body}'")
    assert (found["model"], found["order"]) == ("gpt-4o", ["gpt-4o"])


def test_a_key_that_has_expired_by_then_is_refused(in_a_folder: Path):
    expiring = ("models: [auto, gpt-4o]}", "models: [auto, gpt-4o], expires_on: 2026-12-31}")
    (in_a_folder / "tollway.yaml").write_text(changed(expiring))
    asked = ("--key", "triage-app", "--model", "auto", "--at")
    assert explained(*asked, "2026-12-31T23:59:00")["order"] == ["llama-4-scout", "gpt-4o"]
    assert explained(*asked, "2027-01-01T00:00:00")["refused"]["code"] == "invalid_api_key"


def test_the_decision_in_words_has_everything_on_one_screen():
    text = run("--key", "triage-app", "--request", request_file(EMAIL)).stdout
    assert "Privacy class confidential, from detector email." in text
    assert "gpt-4o         removed  line 18" in text
    assert "Order: llama-4-scout. Decision: only-privacy." in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the request: --request FILE, --curl LINE or --model NAME"),
        (["--request", "missing.json"], "missing.json: No such file"),
        (["--model", "auto", "--header", "x-tollway-privacy"], "write a header as 'name: value'"),
        (["--model", "auto", "--modality", "smell"], "use one of text, image"),
        (["--model", "auto", "--down", "gpt-5"], "use one of gpt-4o, llama-4-scout"),
        (["--model", "auto", "--outstanding", "gpt-4o"], "write NAME=N"),
        (["--curl", "curl http://gw/v1/chat/completions -d '{}'"], "provide a `model` parameter"),
        (["--curl", "curl 'http://gw"], "cannot be read"),
        (["--curl", "curl http://gw -H 'api-key: wrong' -d '{\"model\": \"auto\"}'"], "messages"),
    ],
)
def test_a_question_that_cannot_be_answered_says_what_to_write(words: list[str], message: str):
    result = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_secret_of_no_key_is_told_without_repeating_it():
    request_file()
    result = run("--curl", "curl http://gw/v1/chat/completions -H 'api-key: wrong-secret' -d @R.json")
    assert result.exit_code == 2
    assert "that of no key" in " ".join(result.output.replace("│", " ").split())
    assert "wrong-secret" not in result.output
