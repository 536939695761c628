"""`tollway demo`, as a person runs it, and the pieces that a run cannot show to fail."""

import asyncio
import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import unicodedata
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO

import httpx
import orjson
import pytest

from gateway.demo import books, samples
from gateway.demo.books import check_secrecy, read_books
from gateway.demo.failure import DemoFailed
from gateway.demo.folder import demo_folder
from gateway.demo.stage import Stage, open_stage, refuse_taken_ports
from gateway.demo.traffic import Client
from gateway.detect import DETECTOR_NAMES, Detectors
from gateway.http.server.listening import PortTaken, listen
from gateway.policy.policy_tests import run_policy_tests

FEATURES = ("literature-triage", "chart-reading", "contract-review", "support-agent")
COMMAND = (sys.executable, "-m", "gateway.cli", "demo")
ON_FREE_PORTS = (*COMMAND, "--port", "0", "--admin-port", "0")
PATIENCE_SECONDS = 300
# These are copied, not read, so they are never broken.
UNBROKEN = ("  curl ", "  Llama 4 ", "  tollway_")


@pytest.fixture(scope="module")
def shown() -> Iterator[subprocess.CompletedProcess[str]]:
    """A whole run, ended once it serves, leaves behind nothing but its ledger, which can be asked again."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as kept,
        subprocess.Popen(
            (*ON_FREE_PORTS, "--folder", kept),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": folder, "FORCE_COLOR": "", "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        printed = until(process.stdout, "Serving")
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=PATIENCE_SECONDS)
        run = subprocess.CompletedProcess(process.args, process.returncode, printed + rest, complaints)
        yield run
        assert list(Path(folder).iterdir()) == []
        if run.returncode == 0:
            assert_ledger_is_kept(run.stdout)


def assert_ledger_is_kept(printed: str) -> None:
    """The command that the demo printed last works, and says what the demo said."""
    words = printed.strip().splitlines()[-1].split()
    assert words[:2] == ["tollway", "usage"]
    told = subprocess.run(
        (sys.executable, "-m", "gateway.cli", *words[1:], "--format", "json"),
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    rows = json.loads(told.stdout)
    assert {row["feature"] for row in rows} == set(FEATURES)
    (total,) = re.findall(r"ledger = budget = metrics: ([0-9.]+) USD", printed)[-1:]
    assert f"{sum(row['cost_usd'] for row in rows):.9f}" == total


def request(output: str, title: str) -> str:
    """What was printed about the first request with this title, on one line."""
    found = re.search(rf"^  \d{{3}} .*{re.escape(title)}.*\n(?:      .*\n)+", output, re.MULTILINE)
    assert found is not None, title
    return " ".join(found[0].split())


@pytest.mark.slow
def test_a_run_ends_with_0_and_complains_about_nothing(
    shown: subprocess.CompletedProcess[str],
) -> None:
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert re.search(r"^Stopped after \d+ s and \d+ requests$", shown.stdout, re.MULTILINE)


@pytest.mark.slow
def test_piped_output_is_plain_text_of_100_columns(shown: subprocess.CompletedProcess[str]) -> None:
    assert "\x1b" not in shown.stdout
    broken = [line for line in shown.stdout.splitlines() if not line.startswith(UNBROKEN)]
    assert max(map(columns, broken)) <= 100


@pytest.mark.slow
def test_every_feature_is_charged_and_compared_with_the_other_side(
    shown: subprocess.CompletedProcess[str],
) -> None:
    table = shown.stdout.partition("Cost per feature, in USD")[2].partition("Both sides")[0]
    for feature in FEATURES:
        row = re.search(rf"^ {feature} +\d+ +[\d,]+ +[\d,]+ +(\d\.\d{{6}}) ", table, re.MULTILINE)
        assert row is not None and float(row[1]) > 0, feature
    assert re.search(r"^ total ", table, re.MULTILINE)
    assert re.search(r"As routed \d\.\d+ USD; everything on gpt-4o would have been \d", shown.stdout)


@pytest.mark.slow
def test_a_run_checks_its_books_and_its_secrecy_twice(shown: subprocess.CompletedProcess[str]) -> None:
    spent = re.findall(r"ledger = budget = metrics: (\d+\.\d{9}) USD", shown.stdout)
    assert len(spent) == 2 and 0 < float(spent[0]) <= float(spent[1])
    seen = re.findall(r"confidential text at the external side: 0 of (\d+) requests", shown.stdout)
    assert len(seen) == 2 and int(seen[0]) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("Darwin, 1859", r"internal .* -> local: llama-4-scout, replica [12] \[cost: the cheapest allowed\]"),
        ("夏目漱石, 1905", r"-> local: llama-4-scout, replica"),
        ("PNG chart: which month", r"-> external: gpt-4o \[rule-1: \"image\" in modalities\]"),
        ("PNG chart, marked", r"confidential \(header x-tollway-privacy\) -> local: llama-4-scout"),
        (
            "contract with personal data",
            r"confidential \(found credit_card, email, iban\) -> local: .*only-p",
        ),
        ("client asks for gpt-4o", r"^403 .* -> refused: .*zone external is not allowed for confidential"),
        ("full-width letters", r"confidential \(found email\) -> local: "),
        ("long schedule", r"2\d,\d{3}\+60 tok .* internal .* -> external: gpt-4o \[rule-2: feature == "),
        ("order status: tool call", r"-> external: gpt-4o \[only: the only deployment of this model\]"),
        ("order status: answer", r"-> external: gpt-4o"),
    ],
)
def test_each_request_says_where_it_went_and_why(
    shown: subprocess.CompletedProcess[str], title: str, said: str
) -> None:
    assert re.search(said, request(shown.stdout, title))


@pytest.mark.slow
def test_a_broken_replica_is_passed_over(shown: subprocess.CompletedProcess[str]) -> None:
    broken = shown.stdout.partition("replica 1 breaks down")[2].partition("Cost per feature")[0]
    assert "replica 1 failed with 500, then replica 2" in " ".join(broken.split())
    assert set(re.findall(r"^  (\d{3}) ", broken, re.MULTILINE)) == {"200"}
    assert "Replica 1 is well again" in broken
    assert 'tollway_attempts_total{deployment="llama-4-scout",outcome="upstream_error"}' in shown.stdout


@contextlib.contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (
        tempfile.TemporaryDirectory() as kept,
        subprocess.Popen(
            (*ON_FREE_PORTS, "--folder", kept, *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def until(output: IO[str], beginning: str) -> str:
    """Everything up to the line that begins so."""
    read = ""
    for line in output:
        read += line
        if line.startswith(beginning):
            return read
    raise AssertionError(f"no line begins with {beginning!r}:\n{read}")


def test_serves_whoever_copies_the_printed_key_until_ctrl_c() -> None:
    with running() as (process, output):
        printed = until(output, "Serving")
        url, key = re.search(r"base URL +(\S+)", printed), re.search(r"API key +(\S+)", printed)
        admin, token = re.search(r"admin +(\S+),", printed), re.search(r"admin token +(\S+)", printed)
        assert url and key and admin and token
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        bearer = {"authorization": f"Bearer {key[1]}"}
        answer = httpx.post(f"{url[1]}/chat/completions", json=body, headers=bearer, trust_env=False)
        scraped = httpx.get(admin[1], headers={"authorization": f"Bearer {token[1]}"}, trust_env=False)
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200
    assert answer.headers["x-tollway-deployment"] == "llama-4-scout"
    assert "tollway_requests_total" in scraped.text
    assert process.returncode == 0 and complaints == ""
    assert "Stopped after" in rest and "ledger = budget = metrics" in rest


def test_sigterm_in_the_middle_of_the_samples_ends_in_good_order() -> None:
    with running() as (process, output):
        until(output, "  200 ")
        process.send_signal(signal.SIGTERM)
        rest, complaints = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0 and complaints == ""
    assert "ledger = budget = metrics" in rest
    assert "Serving" not in rest


def test_no_seconds_at_all_is_long_enough_to_start_and_stop() -> None:
    with running("--seconds", "0") as (process, _):
        output, complaints = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0 and complaints == ""
    assert "ledger = budget = metrics: 0.000000000 USD" in output


@pytest.mark.parametrize("option", ["--port", "--admin-port"])
def test_a_taken_port_is_one_line_before_anything_starts(option: str) -> None:
    other = {"--port": "--admin-port", "--admin-port": "--port"}[option]
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = subprocess.run(
            (*COMMAND, option, port, other, "0"),
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr == (
        f"tollway demo: cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Choose another port or stop what uses it.\n"
    )


def test_one_port_cannot_be_both() -> None:
    with pytest.raises(PortTaken, match="--port and --admin-port are both 8099"):
        refuse_taken_ports(8099, 8099)
    refuse_taken_ports(0, 0)


def test_a_folder_serves_one_demo_at_a_time_and_nobody_elses_files_go(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    with demo_folder(mine) as folder:
        (folder / "ledger.db").write_text("rows")
        with pytest.raises(DemoFailed, match="in use by another demo"), demo_folder(mine):
            pass
        assert (folder / "ledger.db").exists()
    with demo_folder(mine) as folder:
        assert not (folder / "ledger.db").exists(), "a new demo begins anew"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(DemoFailed, match="not a demo's"), demo_folder(other):
        pass
    assert (other / "thesis.txt").exists()


# --- what a run cannot show: that the checks would fail ---


def on_stage(act: Callable[[Stage, Client], Awaitable[None]]) -> None:
    async def go() -> None:
        with tempfile.TemporaryDirectory() as kept:
            async with open_stage(0, 0, Path(kept)) as stage, Client(stage) as client:
                await act(stage, client)

    asyncio.run(go())


@pytest.mark.parametrize("text", samples.SECRETS)
def test_a_confidential_text_at_the_external_side_fails_the_demo(text: str) -> None:
    async def act(stage: Stage, _: Client) -> None:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"Look: {text}"}]}
        escaped = orjson.dumps(body).decode().encode("ascii", "backslashreplace")
        async with httpx.AsyncClient(trust_env=False) as http:
            bearer = {"authorization": "Bearer sk-anything"}
            await http.post(f"{stage.gpt_4o.url}/v1/chat/completions", content=escaped, headers=bearer)
        with pytest.raises(DemoFailed, match="1 confidential requests were seen at the external side"):
            check_secrecy(stage, [])

    on_stage(act)


def test_a_confidential_request_at_the_external_side_fails_the_demo() -> None:
    async def act(stage: Stage, client: Client) -> None:
        outcome = await client.send(samples.order_question())
        assert check_secrecy(stage, []).seen == 1
        with pytest.raises(DemoFailed):
            check_secrecy(stage, [outcome.request_id])

    on_stage(act)


def test_books_that_differ_fail_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Client):
        async def metrics(self) -> str:
            lines = (await super().metrics()).splitlines(keepends=True)
            return "".join(line for line in lines if not line.startswith("tollway_cost_usd_total"))

    async def act(stage: Stage, client: Client) -> None:
        await client.send(samples.support_chats()[0])
        assert (await read_books(stage, client)).ledger_nano > 0
        async with Forgetful(stage) as forgetful:
            with pytest.raises(
                DemoFailed, match=r"the books differ: ledger 0\.\d+, .* metrics 0\.000000000 "
            ):
                await read_books(stage, forgetful)

    monkeypatch.setattr(books, "AGREE_SECONDS", 0.2)
    on_stage(act)


def test_what_is_shown_of_a_request_is_what_the_ledger_has() -> None:
    async def act(stage: Stage, client: Client) -> None:
        wanted = [*samples.chart_reading(), *samples.support_chats(), samples.order_question()]
        outcomes = [await client.send(sample) for sample in wanted]
        assert all(outcome.is_as_expected for outcome in outcomes)
        found = await read_books(stage, client)
        assert found.ledger_nano == sum(outcome.cost_nano for outcome in outcomes)
        assert found.by_feature[0].input_tokens == sum(item.usage.input_tokens for item in outcomes[:3])

    on_stage(act)


def test_its_configuration_passes_its_own_policy_tests() -> None:
    async def act(stage: Stage, _: Client) -> None:
        assert len(stage.built.settings.policy_tests) >= 5
        assert await asyncio.to_thread(run_policy_tests, stage.built) == []  # it has a loop of its own

    on_stage(act)


# --- the inputs are what they claim to be ---


def text(name: str) -> str:
    return (samples.INPUTS / name).read_text(encoding="utf-8")


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


def test_the_english_text_is_darwin() -> None:
    darwin = text("origin-of-species.en.txt")
    assert darwin.isascii() and 2_000 < len(darwin) < 4_000
    assert darwin.startswith("When on board H.M.S. 'Beagle,' as naturalist,")
    assert "that mystery of mysteries" in darwin


def test_the_japanese_text_is_japanese() -> None:
    soseki = text("wagahai-wa-neko-de-aru.ja.txt").replace("\n", "")
    assert soseki.startswith("吾輩は猫である。名前はまだ無い。") and len(soseki) > 400
    kinds = [unicodedata.name(char).partition(" ")[0] for char in soseki]
    japanese = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "FULLWIDTH"}
    assert set(kinds) <= japanese
    assert kinds.count("HIRAGANA") > kinds.count("CJK") > 100


def test_the_chart_is_a_whole_png() -> None:
    content = (samples.INPUTS / "standstill-hours.png").read_bytes()
    assert len(content) < 60_000 and content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        data = content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length)[0] == zlib.crc32(kind + data), kind
        chunks[kind] = chunks.get(kind, b"") + data
        at += 12 + length
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    bits = depth * {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    assert (width, height) == (720, 420) and b"IEND" in chunks
    assert len(zlib.decompress(chunks[b"IDAT"])) == height * (1 + -(-width * bits // 8))


def test_only_the_contract_holds_personal_data() -> None:
    detectors = Detectors(DETECTOR_NAMES)
    assert detectors.scan([text("contract.txt")]) == {"email", "iban", "credit_card"}
    assert all(item in text("contract.txt") for item in samples.PERSONAL_DATA)
    for other in ("origin-of-species.en.txt", "wagahai-wa-neko-de-aru.ja.txt"):
        assert detectors.scan([text(other)]) == frozenset(), other
    assert detectors.scan([samples.long_contract()]) == frozenset()


def test_every_input_is_accounted_for() -> None:
    told = text("README.md")
    assert all(f"`{path.name}`" in told for path in samples.INPUTS.iterdir() if path.name != "README.md")
