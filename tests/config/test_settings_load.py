"""Reading the file: what it means, what it never does, and what later checks get from it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from gateway.config import source
from gateway.config.load import Loaded, load
from gateway.config.problems import Problem
from gateway.config.schema import json_schema

Read = Callable[..., Loaded]
SMALL = """\
zones: {local: {cidrs: [127.0.0.0/8]}, external: }
deployments:
  m: {provider: vllm, model: m, zone: local, base_url: http://127.0.0.1:1/v1, price: {input: 1, output: 2}}
models: {m: {use: [m]}}
"""


def lines(problems: list[Problem]) -> list[str]:
    return [str(problem) for problem in problems]


def test_the_example_loads_without_an_error(read: Read, example: str) -> None:
    loaded = read(example)
    assert lines(loaded.errors) == []
    assert loaded.blocking == []
    settings = loaded.settings
    assert settings is not None
    assert settings.deployments["gpt-4o"].price is not None
    assert settings.deployments["gpt-4o"].retires_on == date(2027, 1, 14)
    assert settings.deployments["gpt-4o"].successor is None
    assert settings.deployments["llama-4-scout"].serves == ("chat", "completions")
    assert settings.privacy.zones["confidential"] == ("local",)
    assert settings.keys["triage-app"].secret.get_secret_value() == "triage-key-0123456789"


def test_version_is_the_hash_of_the_file_as_it_stands(read: Read, example: str) -> None:
    loaded = read(example)
    assert loaded.version == hashlib.sha256(example.encode()).hexdigest()[:12]
    assert loaded.text == example
    assert read(example + "# a comment\n").version != loaded.version


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "tollway.yaml:1: is empty: write at least one section"),
        (b"# only a comment\n", "tollway.yaml:1: is empty: write at least one section"),
        (b"---\nnull\n", "tollway.yaml:2: is empty: write at least one section"),
        (b"state: memory\nledger: \xff\n", "tollway.yaml:2: is not UTF-8: save the file as UTF-8"),
        ("state: memory".encode("utf-16"), "tollway.yaml:1: is not UTF-8: save the file as UTF-8"),
        (b"- a\n- b\n", "tollway.yaml:1: must be a mapping of sections, such as `server:`"),
        (b"hello", "tollway.yaml:1: must be a mapping of sections, such as `server:`"),
        (b"server:\n\tdata: {}\n", "tollway.yaml:2: has a tab: YAML is indented with spaces"),
        (b"server:\n  a: \x00", "tollway.yaml:2: has a control character (U+0000): remove it"),
        (b"[" * 100_000, "tollway.yaml:1: is nested deeper than 32 levels"),
        (b"a: " + b"- " * 100_000, "tollway.yaml:1: is not YAML: block sequence entries are not allowed"),
        (b"#" * (4 * 2**20 + 1), "tollway.yaml:1: is larger than 4 MiB"),
    ],
)
def test_what_is_no_configuration_is_one_clear_problem(read: Read, content: bytes, said: str) -> None:
    loaded = read(content)
    assert loaded.settings is None
    assert len(loaded.errors) == 1
    assert lines(loaded.errors)[0].startswith(said)


def test_a_byte_order_mark_is_no_content(read: Read) -> None:
    assert read(b"\xef\xbb\xbf" + SMALL.encode()).errors == []


def test_a_file_that_cannot_be_read_is_a_problem_without_a_line(tmp_path: Path) -> None:
    missing = load(tmp_path / "no.yaml", {})
    assert lines(missing.errors) == [f"{tmp_path}/no.yaml: cannot be read: No such file or directory"]
    assert lines(load(tmp_path, {}).errors) == [f"{tmp_path}: cannot be read: Is a directory"]
    assert "cannot be read" in str(load(Path("a\0b"), {}).errors[0])
    assert missing.settings is None


def test_aliases_are_read_but_cannot_explode(read: Read) -> None:
    shared = SMALL.replace("use: [m]", "use: &all [m]") + "  # shared\n"
    assert read(shared.replace("models: {", "models: {").replace("}}\n", "}, n: {use: *all}}\n")).errors != []
    loaded = read(SMALL + "teams: {a: &a {limits: {concurrent: 1}}, b: *a}\n")
    assert loaded.settings is not None
    assert loaded.settings.teams["b"].limits.concurrent == 1
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
        for before, name in zip("abcdefghi", "bcdefghij", strict=True)
    )
    exploding = read(bomb)  # a billion values, if they were made
    assert lines(exploding.errors) == ["tollway.yaml:6: f: holds more than 200,000 values, aliases expanded"]


def test_every_error_is_listed_at_once_by_line(read: Read, example: str) -> None:
    broken = (
        example.replace("port: 8080", "port: high")
        .replace("host: 127.0.0.1, port: 8081", "hots: 127.0.0.1, port: 8081")
        .replace("find: [email,", "find: [e-mail,")
        .replace("input: 2.50", "input: -1")
        .replace("zone: external", "zone: outside")
        .replace("use: [llama-4-scout]}\n  auto", "use: [llama-4-scoot]}\n  auto")
        .replace("team: research", "team: reserch")
        .replace("${TRIAGE_KEY}", "${TRIAGE_KEY}${MISSING}")
        .replace("state: memory", "state: memory\nstate: redis://h/0")
    )
    loaded = read(broken)
    assert loaded.settings is None
    assert [re.sub(r": .*", "", line.removeprefix("tollway.yaml:")) for line in lines(loaded.errors)] == [
        *("2", "3", "6", "22", "30", "36", "54", "66", "68")
    ]
    assert lines(loaded.errors)[5] == "tollway.yaml:36: deployments.gpt-4o.price.input: must be >= 0"


def test_all_missing_variables_are_named_at_once(read: Read, example: str) -> None:
    assert lines(read(example, {}).errors) == [
        "tollway.yaml:3: server.admin.token: the environment variable TOLLWAY_ADMIN_TOKEN is not set",
        "tollway.yaml:28: deployments.gpt-4o.api_key: the environment variable OPENAI_API_KEY is not set",
        "tollway.yaml:67: keys.triage-app.secret: the environment variable TRIAGE_KEY is not set",
    ]


def test_variables_stand_in_any_value_and_can_be_escaped(read: Read) -> None:
    loaded = read(
        SMALL.replace("model: m,", 'model: "org/$${X}-${WORD}-$5",')
        + "server: {data: {port: '${PORT}'}}\norg: {licensee_eu_domiciled: '${YES}'}\n",
        {"WORD": "scout", "PORT": "9090", "YES": "true"},
    )
    assert loaded.settings is not None
    assert loaded.settings.deployments["m"].model == "org/${X}-scout-$5"
    assert loaded.settings.server.data.port == 9090
    assert loaded.settings.org.licensee_eu_domiciled is True
    assert "${WORD}" in loaded.text


def test_a_variable_is_text_and_never_yaml(read: Read) -> None:
    loaded = read(SMALL.replace("model: m,", "model: '${WORD}',"), {"WORD": "null"})
    assert loaded.settings is not None
    assert loaded.settings.deployments["m"].model == "null"
    injected = read(SMALL.replace("zone: local,", "zone: '${WORD}',"), {"WORD": "local, license: x"})
    assert lines(injected.errors) == [
        "tollway.yaml:3: deployments.m.zone: is not a usable name: take up to 128 letters, digits and "
        ". _ - : / @ +, beginning with a letter or a digit"
    ]


def test_yaml_words_and_numbers_are_what_the_schema_expects(read: Read) -> None:
    loaded = read(
        SMALL
        + "teams: {on: {}, no: {}, 123: , 1e3: {}, 2027-01-14: {}}\n"
        + "features:\n  yes: {team: on, budgets: [{usd: 1e3, per: day}], "
        + "limits: {tokens_per_minute: 200_000}}\n"
        + "  off: {team: 123, limits: {requests_per_minute: 010}}\n"
    )
    assert lines(loaded.errors) == []
    settings = loaded.settings
    assert settings is not None
    assert list(settings.teams) == ["on", "no", "123", "1e3", "2027-01-14"]
    assert settings.features["yes"].budgets[0].usd == 1000
    assert settings.features["yes"].limits.tokens_per_minute == 200_000
    assert settings.features["off"].limits.requests_per_minute == 10


def test_money_is_exactly_what_is_written(read: Read) -> None:
    loaded = read(
        SMALL.replace("input: 1,", "input: 0.1, cached_input: 0.30000000000, batch: {output: 4.35},")
        + "org: {budgets: [{usd: 1234567.123456789, per: month}]}\n"
    )
    assert loaded.settings is not None
    price = loaded.settings.deployments["m"].price
    assert price is not None
    assert price.batch is not None
    assert (price.input, price.cached_input, price.batch.output) == (
        *(Decimal("0.1"), Decimal("0.3"), Decimal("4.35")),
    )
    assert loaded.settings.org.budgets[0].usd == Decimal("1234567.123456789")


def test_secrets_are_shown_nowhere(read: Read, example: str) -> None:
    environ = {
        "TOLLWAY_ADMIN_TOKEN": "hunter2-admin",
        "OPENAI_API_KEY": "hunter2-openai",
        "TRIAGE_KEY": "hunter2-triage",
    }
    text = example.replace("state: memory", "state: redis://:${TRIAGE_KEY}@h/0").replace(
        "license:",
        "headers: {x-org: '${TRIAGE_KEY}'}\n    proxy: http://u:${TRIAGE_KEY}@proxy:3128\n    license:",
    )
    loaded = read(text, environ)
    assert loaded.settings is not None
    shown = (
        f"{loaded!r} {loaded.settings!r} {loaded.settings} {loaded.root!r} {loaded.settings.model_dump()!r}"
    )
    assert "hunter2" not in shown + "".join(lines(loaded.warnings))
    assert loaded.settings.state.get_secret_value() == "redis://:hunter2-triage@h/0"
    assert loaded.settings.state.scheme == "redis"


def test_no_place_of_the_file_shows_what_the_environment_holds(read: Read, example: str) -> None:
    for value in re.findall(r"[\w./:-]*\w(?=[,\]}\n ])", example.split("policy_tests", maxsplit=1)[0]):
        text = example.replace(f" {value}", " '${WORD}'").replace(f"[{value}", "['${WORD}'")
        loaded = read(
            text, {**dict.fromkeys(("TOLLWAY_ADMIN_TOKEN", "OPENAI_API_KEY"), "x"), "WORD": "hunter2 "}
        )
        assert "hunter2" not in "".join(lines(loaded.errors + loaded.warnings)), value


def test_privacy_left_out_keeps_the_upper_classes_at_home(read: Read) -> None:
    loaded = read(SMALL)
    assert loaded.settings is not None
    assert loaded.settings.privacy.zones == {
        "public": ("local", "external"),
        "internal": ("local", "external"),
        "confidential": ("local",),
        "restricted": ("local",),
    }
    away = read(SMALL.replace("local", "pool"))
    assert away.settings is not None
    assert away.settings.privacy.zones["confidential"] == ()
    assert away.settings.privacy.default == "internal"


def test_key_pepper_is_its_own_secret_else_of_the_token_else_public(read: Read) -> None:
    def pepper(server: str) -> bytes:
        settings = read(SMALL + server).settings
        assert settings is not None
        return settings.server.pepper()

    assert pepper("server: {key_pepper: 0123456789abcdef}\n") == b"0123456789abcdef"
    of_token = pepper("server: {admin: {token: 0123456789abcdef}}\n")
    assert of_token != pepper("server: {admin: {token: 0123456789abcdeg}}\n")
    assert len(of_token) == 32
    assert pepper("") == pepper("server:\n") not in (of_token, b"")


def test_later_checks_report_with_the_same_lines(read: Read, example: str) -> None:
    loaded = read(example)
    when = ("models", "auto", "rules", 1, "when")
    assert loaded.line_of(when) == 59
    assert str(loaded.problem(when, "names nothing")) == (
        "tollway.yaml:59: models.auto.rules[1].when: names nothing"
    )
    assert str(loaded.problem(("deployments", "llama-4-scout", "price"), "is unknown")) == (
        "tollway.yaml:38: deployments.llama-4-scout.price: is unknown"
    )
    assert loaded.line_of(("no", 3, "where")) == 1
    assert str(loaded.problem(("models", "gpt-4.1"), "x", severity="warning")) == (
        'tollway.yaml:51: warning: models."gpt-4.1": x'
    )


def test_what_is_not_in_force_loads_and_blocks_serving(changed: Callable[[str, str], Loaded]) -> None:
    dns = changed('urls: ["http://127.0.0.1:9101/v1", "http://127.0.0.1:9102/v1"]', 'dns: "llama.svc:8000"')
    assert dns.settings is not None
    assert [problem.path[-1] for problem in dns.blocking] == ["dns"]
    assert changed("state: memory", "state: rediss://h:6380/1").blocking == []
    assert changed("concurrent: 32", "shadow: true").blocking == []


def test_the_python_yaml_loader_reads_the_same(
    read: Read, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = read(example)
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    slow = read(example)
    assert (slow.settings, slow.warnings, slow.errors) == (fast.settings, fast.warnings, fast.errors)
    assert lines(read("a:\n\tb: 1").errors) == ["tollway.yaml:2: has a tab: YAML is indented with spaces"]
    assert "not YAML" in str(read("a: [").errors[0])


def test_json_schema_is_json_and_knows_the_sections() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["additionalProperties"] is False
    assert {"server", "zones", "privacy", "deployments", "models", "keys"} <= set(schema["properties"])
    assert schema["properties"]["state"]["default"] == "memory"


def test_importing_settings_brings_no_server_and_no_database() -> None:
    script = "import sys, gateway.config.load; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout.split()
    assert not {"fastapi", "sqlalchemy", "httpx", "aiohttp", "litellm", "uvicorn"} & set(modules)
