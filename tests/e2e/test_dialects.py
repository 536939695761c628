"""Servers that read other fields than the gateway sends: what reaches them, what it costs, what is learnt."""

from pathlib import Path
from typing import Any

import pytest

from gateway.simulators.attempts import SeenAttempt
from gateway.simulators.knobs import Knobs
from gateway.simulators.running import Simulator
from tests.e2e.harness import Harness, Json, Streamed, chat, running

DIGITS = "31415926535897932384626433832795028841971693993751"
STEERING = {"priority": -5, "cache_salt": "s", "kv_transfer_params": {"do_remote_decode": True}}
ROUTING = {"models": ["other"], "provider": {"order": ["x"]}, "route": "fallback", "transforms": ["m"]}


def dialect(name: str = "scout", **said: Any) -> Json:
    return {"deployments": {name: {"dialect": said}}}


def compatible(harness_url: str = "${EXTERNAL}/v1", **changes: Any) -> Json:
    """A server that is only known to be like OpenAI's, behind the model `like`."""
    deployment = {
        "provider": "openai-compatible",
        "model": "gpt-4o-2024-11-20",
        "base_url": harness_url,
        "api_key": "sk-simulated-account-key",
        "zone": "external",
        "context_tokens": 128000,
        "max_output_tokens": 1000,
        "price": {"input": "1", "output": "10"},
    }
    return {"deployments": {"like": {**deployment, **changes}}, "models": {"like": {"use": ["like"]}}}


def had(simulator: Simulator, member: str) -> list[bool]:
    """Of each attempt in its order, whether its body had `member`."""
    having = {attempt.n for attempt in simulator.attempts(member)}
    return [attempt.n in having for attempt in simulator.attempts()]


def seen(harness: Harness) -> SeenAttempt:
    (attempt,) = harness.attempts()
    return attempt


# --- a field of the gateway's own is refused ---


async def test_a_refused_cap_is_respelt_as_an_attempt_of_its_own_and_the_deployment_learns(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, compatible()) as harness:
        harness.external.set_knobs(refused_fields=("max_tokens",))
        answer = await harness.post(chat(model="like", max_tokens=7))
        assert answer.status_code == 200
        assert had(harness.external, "max_tokens") == [True, False]
        assert had(harness.external, "max_completion_tokens") == [False, True]
        first, second = await harness.rows()
        assert [first["outcome"], second["outcome"]] == ["client_error", "success"]
        assert (first["cost_nano_usd"], second["output_text_tokens"]) == (0, 7)
        again = await harness.post(chat(model="like", max_tokens=7))
        assert again.status_code == 200
        assert had(harness.external, "max_tokens") == [True, False, False]
        metrics = await harness.metrics()
        assert metrics.sum("dialect_learned_total", deployment="like", field="max_tokens") == 1
        assert await harness.held_nano() == 0


@pytest.mark.parametrize("status", ["400 of OpenAI", "422 of pydantic"])
async def test_refused_stream_options_are_left_out_and_usage_that_comes_unasked_is_read(
    tmp_path: Path, status: str
) -> None:
    is_openai = status.startswith("400")
    async with running(tmp_path, compatible()) as harness:
        model = "like" if is_openai else "scout"
        for simulator in harness.simulators:
            simulator.set_knobs(refused_fields=("stream_options",), unasked_usage=True, output_tokens=20)
        answer = await harness.post(chat(model=model, stream=True))
        assert answer.status_code == 200
        streamed = Streamed(answer.content)
        assert streamed.is_done
        assert not any(chunk.get("usage") for chunk in streamed.chunks)  # the client has not asked
        await harness.settled()
        refused, told = await harness.rows()
        assert refused["outcome"] == "client_error"
        assert (told["outcome"], told["output_text_tokens"], told["estimated"]) == ("success", 20, False)
        assert (await harness.post(chat(model=model, stream=True))).status_code == 200
        assert len(harness.attempts()) == 3


async def test_both_refusals_of_one_request_are_remedied_one_after_the_other(tmp_path: Path) -> None:
    async with running(tmp_path, compatible()) as harness:
        harness.external.set_knobs(refused_fields=("max_tokens", "stream_options"))
        answer = await harness.post(chat(model="like", stream=True, max_tokens=5))
        assert answer.status_code == 200
        await harness.settled()
        assert len(harness.attempts()) == 3
        assert (await harness.post(chat(model="like", stream=True, max_tokens=5))).status_code == 200
        assert len(harness.attempts()) == 4


NO_CAP = ("max_tokens", "max_completion_tokens")


async def test_where_no_cap_is_honoured_the_uncapped_maximum_is_held(tmp_path: Path) -> None:
    """1,000 tokens at 10 dollars a million are a cent: what is held before the answer can run to its end."""
    budget = {"features": {"search": {"budgets": [{"usd": "0.05", "per": "lifetime"}]}}}
    async with running(tmp_path, {**compatible(), **budget}) as harness:
        harness.external.set_knobs(refused_fields=NO_CAP, output_tokens=300)
        answer = await harness.post(chat(model="like", max_tokens=5))
        assert answer.status_code == 200
        rows = await harness.rows()
        assert [row["outcome"] for row in rows] == ["client_error", "client_error", "success"]
        assert rows[0]["held_nano_usd"] < rows[2]["held_nano_usd"]
        assert rows[2]["held_nano_usd"] >= 1000 * 10_000
        assert rows[2]["cost_nano_usd"] <= rows[2]["held_nano_usd"]
        # Learned: the next request begins there, and holds as much.
        assert (await harness.post(chat(model="like", max_tokens=5))).status_code == 200
        (*_, last) = await harness.rows()
        assert (len(harness.attempts()), last["held_nano_usd"] >= 1000 * 10_000) == (4, True)


async def test_an_answer_without_a_cap_that_no_budget_covers_is_not_asked_for(tmp_path: Path) -> None:
    budget = {"features": {"search": {"budgets": [{"usd": "0.005", "per": "lifetime"}]}}}
    async with running(tmp_path, {**compatible(), **budget}) as harness:
        harness.external.set_knobs(refused_fields=NO_CAP)
        answer = await harness.post(chat(model="like", max_tokens=5))
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
        assert "honours no output cap" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert all(attempt.status == 400 for attempt in harness.attempts())
        assert await harness.held_nano() == 0


async def test_a_deployment_that_says_so_is_never_sent_a_cap(tmp_path: Path) -> None:
    async with running(tmp_path, compatible(dialect={"output_cap": "none"})) as harness:
        answer = await harness.post(chat(model="like", max_tokens=5))
        assert answer.status_code == 200
        assert [had(harness.external, name) for name in NO_CAP] == [[False], [False]]
        (row,) = await harness.rows()
        assert row["held_nano_usd"] >= 1000 * 10_000


async def test_a_refusal_of_the_clients_own_field_is_the_clients(tmp_path: Path) -> None:
    async with running(tmp_path, compatible()) as harness:
        harness.external.set_knobs(refused_fields=("temperature",))
        answer = await harness.post(chat(model="like", temperature=0.5))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "temperature"
        assert len(harness.attempts()) == 1


# --- what the table knows ---


async def test_tags_in_metadata_stay_home_unless_the_answer_is_to_be_stored(tmp_path: Path) -> None:
    """OpenAI refuses `metadata` without `store`: the SDK's tags made every request a 400."""
    async with running(tmp_path) as harness:
        answer = await harness.post(chat(metadata={"project": "apollo"}))
        assert answer.status_code == 200
        assert answer.headers["x-tollway-changed"] == "metadata"
        assert harness.attempts("apollo") == []
        (row,) = await harness.rows()
        assert "apollo" in row["tags"]
        assert (await harness.post(chat(metadata={"project": "apollo"}, store=True))).status_code == 200
        assert len(harness.attempts("apollo")) == 1


async def test_a_developer_speaks_as_system_to_templates_that_know_no_other(tmp_path: Path) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello."}]
    async with running(tmp_path) as harness:
        for model in ("gpt-4o", "scout"):
            assert (await harness.post({"model": model, "messages": messages})).status_code == 200
        assert len(harness.external.attempts('"developer"')) == 1
        replicas = [attempt for sim in harness.replicas for attempt in sim.attempts('"system"')]
        assert len(replicas) == 1


async def test_a_prediction_goes_out_with_the_cap_that_openai_takes_beside_it(tmp_path: Path) -> None:
    prediction = {"type": "content", "content": "def f(): pass"}
    async with running(tmp_path) as harness:
        answer = await harness.post(chat(prediction=prediction, max_completion_tokens=9))
        assert answer.status_code == 200
        assert had(harness.external, '"max_tokens"') == [True]


async def test_an_effort_that_a_server_does_not_take_becomes_the_nearest(tmp_path: Path) -> None:
    changes = {"deployments": {"scout": {"supports": ["reasoning"]}}}
    changes["deployments"]["scout"]["dialect"] = {"reasoning_effort": ["low", "high"]}
    async with running(tmp_path, changes) as harness:
        answer = await harness.post(chat(model="scout", reasoning_effort="minimal"))
        assert answer.status_code == 200
        assert answer.headers["x-tollway-changed"] == "reasoning_effort"
        assert [len(sim.attempts("minimal")) for sim in harness.replicas] == [0, 0]


# --- fields that steer engines and routers ---


@pytest.mark.parametrize("model", ["scout", "gpt-4o", "like"])
async def test_fields_that_steer_are_dropped_and_never_in_silence(tmp_path: Path, model: str) -> None:
    async with running(tmp_path, compatible()) as harness:
        answer = await harness.post(chat(model=model, **STEERING, **ROUTING))
        assert answer.status_code == 200
        names = sorted({**STEERING, **ROUTING})
        assert answer.headers["x-tollway-changed"].split(",") == names
        for name in names:
            assert harness.attempts(f'"{name}"') == []
        metrics = await harness.metrics()
        for name in names:
            assert metrics.sum("fields_dropped_total", field=name) == 1


async def test_an_operator_may_let_a_field_pass(tmp_path: Path) -> None:
    async with running(tmp_path, dialect(allow_fields=["cache_salt"])) as harness:
        assert (await harness.post(chat(model="scout", **STEERING))).status_code == 200
        assert len(harness.attempts("cache_salt")) == 1
        assert harness.attempts("kv_transfer_params") == []


async def test_an_operator_may_refuse_them_and_another_deployment_answers(tmp_path: Path) -> None:
    async with running(tmp_path, dialect(steering_fields="refuse")) as harness:
        refused = await harness.post(chat(model="scout", priority=-5))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "field_not_allowed")
        assert "priority" in refused.json()["error"]["message"]
        answer = await harness.post(chat(model="auto", priority=-5))
        assert answer.headers["x-tollway-deployment"] == "gpt-4o"
        assert (await harness.post(chat(model="scout"))).status_code == 200


# --- capabilities that were accepted silently ---

SILENT: dict[str, Json] = {
    "web_search": {"web_search_options": {}},
    "custom_tools": {"tools": [{"type": "custom", "custom": {"name": "sql"}}]},
    "functions": {"functions": [{"name": "f", "parameters": {}}]},
    "audio_output": {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
}


@pytest.mark.parametrize("capability", SILENT)
async def test_what_a_server_would_ignore_is_asked_of_those_that_can(tmp_path: Path, capability: str) -> None:
    """vLLM reads none of these, and answers as if they had not been there."""
    changes = {"deployments": {"scout": {"accepts": ["text", "image", "audio"]}}}
    changes["privacy"] = {"media": {"audio": "internal"}}
    async with running(tmp_path, changes) as harness:
        answer = await harness.post(chat(model="scout", **SILENT[capability]))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_capability")
        assert capability in answer.json()["error"]["message"]
        assert harness.attempts() == []


async def test_functions_and_speech_follow_from_what_an_openai_deployment_says(tmp_path: Path) -> None:
    speaks = {
        "provider": "openai",
        "model": "gpt-4o-audio-preview",
        "base_url": "${EXTERNAL}/v1",
        "api_key": "sk-simulated-account-key",
        "zone": "external",
        "accepts": ["text", "audio"],
        "context_tokens": 128000,
        "max_output_tokens": 1000,
        "price": {"input": "1", "output": "10", "input_audio": "40", "output_audio": "80"},
    }
    changes = {
        "deployments": {"speaks": speaks},
        "models": {"speaks": {"use": ["speaks"]}},
        "privacy": {"media": {"audio": "internal"}},
    }
    async with running(tmp_path, changes) as harness:
        assert (await harness.post(chat(**SILENT["functions"]))).status_code == 200
        assert (await harness.post(chat(model="speaks", **SILENT["audio_output"]))).status_code == 200


# --- the cap that nobody asked for ---


def small(**changes: Any) -> Json:
    return {"deployments": {"scout": {"context_tokens": 32768, "max_output_tokens": 16384, **changes}}}


async def test_a_long_prompt_of_digits_is_answered_as_without_a_gateway(tmp_path: Path) -> None:
    """About 18,000 tokens of digits and no cap: 4 bytes a token made a cap that vLLM refused with 400."""
    knobs = Knobs(max_model_len=32768)
    async with running(tmp_path, small(), replicas=(knobs, knobs)) as harness:
        answer = await harness.post(chat(DIGITS * 1020, model="scout"))
        assert answer.status_code == 200
        assert 17_000 < answer.json()["usage"]["prompt_tokens"] < 19_000
        (row,) = await harness.rows()
        assert row["outcome"] == "success"


@pytest.mark.parametrize("stops_counting", [False, True])
async def test_a_cap_that_is_too_large_all_the_same_gets_one_more_try_with_a_smaller_one(
    tmp_path: Path, stops_counting: bool
) -> None:
    """The server's context is smaller than the file says, and nobody counts: the first cap is refused."""
    knobs = Knobs(max_model_len=8192, stops_counting=stops_counting, tokenize_route=False)
    async with running(tmp_path, small(), replicas=(knobs, knobs)) as harness:
        answer = await harness.post(chat("word " * 4000, model="scout"))
        assert answer.status_code == 200
        assert 0 < int(answer.headers["x-tollway-output-cap"]) <= 4192
        refused, answered = await harness.rows()
        assert (refused["outcome"], refused["cost_nano_usd"]) == ("client_error", 0)
        assert answered["outcome"] == "success"


async def test_a_cap_of_the_clients_own_is_its_own_affair(tmp_path: Path) -> None:
    knobs = Knobs(max_model_len=8192)
    async with running(tmp_path, small(), replicas=(knobs, knobs)) as harness:
        answer = await harness.post(chat("word " * 4000, model="scout", max_tokens=8000))
        assert answer.status_code == 400
        assert len(harness.attempts()) == 1


async def test_many_prompts_of_digits_leave_a_prompt_of_prose_its_answer(tmp_path: Path) -> None:
    """After 31 prompts of digits an English prompt of 545 tokens got a cap of one token."""
    knobs = Knobs(max_model_len=2048, tokenize_route=False, output_tokens=900)
    changes = small(context_tokens=2048, max_output_tokens=1024)
    async with running(tmp_path, changes, replicas=(knobs, knobs)) as harness:
        for _ in range(31):
            assert (await harness.post(chat(DIGITS * 60, model="scout", max_tokens=5))).status_code == 200
        answer = await harness.post(chat("The ship left the harbour at dawn. " * 60, model="scout"))
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 900


async def test_a_prompt_that_fits_is_not_refused_for_what_was_learned_of_others(tmp_path: Path) -> None:
    """897 of 2,048 tokens were refused as `about 2416`, and as a matter of privacy."""
    knobs = Knobs(max_model_len=2048, tokenize_route=False)
    changes = small(context_tokens=2048, max_output_tokens=1024)
    async with running(tmp_path, changes, replicas=(knobs, knobs)) as harness:
        pool = harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["scout"]
        pool.bytes_per_token = 1.0
        text = "The ship left the harbour at dawn. " * 105
        answer = await harness.post(chat(text, model="auto"), x_tollway_privacy="confidential")
        assert answer.status_code == 200
        assert answer.headers["x-tollway-deployment"] == "scout"


async def test_what_is_surely_too_long_is_refused_for_its_size_and_not_for_privacy(tmp_path: Path) -> None:
    knobs = Knobs(max_model_len=2048)
    changes = small(context_tokens=2048, max_output_tokens=1024)
    async with running(tmp_path, changes, replicas=(knobs, knobs)) as harness:
        answer = await harness.post(chat("word " * 4000, model="auto"), x_tollway_privacy="confidential")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert "zone external is not allowed for confidential" in error["message"]


async def test_a_confidential_prompt_is_counted_at_home_alone(tmp_path: Path) -> None:
    """`/tokenize` sees the whole prompt: only servers that may have it are asked."""
    knobs = Knobs(max_model_len=32768)
    changes = small()
    changes["deployments"]["gpt-4o"] = {"dialect": {"count_prompt": "server"}, "context_tokens": 32768}
    async with running(tmp_path, changes, replicas=(knobs, knobs)) as harness:
        answer = await harness.post(chat("word " * 20_000, model="auto"), x_tollway_privacy="confidential")
        assert answer.status_code == 200
        assert harness.external.attempts() == []


# --- fields that nobody knows ---

UNHEARD = {"my_field": "x", "top_k": 5}


@pytest.mark.parametrize(("policy", "told"), [("pass", None), ("drop", "unknown_fields")])
async def test_unknown_fields_go_out_or_do_not_as_the_file_says(
    tmp_path: Path, policy: str, told: str | None
) -> None:
    async with running(tmp_path, dialect(unknown_fields=policy)) as harness:
        answer = await harness.post(chat(model="scout", **UNHEARD))
        assert answer.status_code == 200
        assert answer.headers.get("x-tollway-changed") == told
        assert len(harness.attempts("my_field")) == (told is None)
        assert len(harness.attempts("top_k")) == 1, "vLLM reads it"


async def test_what_openai_is_not_known_to_read_is_held_back_and_told(tmp_path: Path) -> None:
    async with running(tmp_path, dialect("gpt-4o", unknown_fields="drop")) as harness:
        answer = await harness.post(chat(**UNHEARD))
        assert answer.status_code == 200
        assert answer.headers["x-tollway-changed"] == "top_k,unknown_fields"
        dropped = (await harness.metrics()).sum("fields_dropped_total", deployment="gpt-4o")
        assert dropped == 2


async def test_a_deployment_that_refuses_them_leaves_the_request_to_another(tmp_path: Path) -> None:
    async with running(tmp_path, dialect("gpt-4o", unknown_fields="refuse")) as harness:
        refused = await harness.post(chat(**UNHEARD))
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "field_not_allowed")
        assert "my_field" not in refused.text
        assert "top_k" in refused.text
        assert not harness.attempts()
        assert (await harness.post(chat(model="auto", **UNHEARD))).headers["x-tollway-deployment"] == "scout"


@pytest.mark.parametrize("policy", ["pass", "drop"])
async def test_an_unknown_field_is_read_in_any_case(tmp_path: Path, policy: str) -> None:
    async with running(tmp_path, dialect("gpt-4o", unknown_fields=policy)) as harness:
        refused = await harness.post(chat(my_field="My card is 4111 1111 1111 1111."))
        assert refused.json()["error"]["code"] == "privacy_policy_violation"
