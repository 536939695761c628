"""`POST /admin/v1/policy/explain` tells what the data port would do with the same request at that moment."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.harness import CARD, PNG_URL, Harness, Json, chat, running

PATH = "/admin/v1/policy/explain"
RULED: Json = {
    "models": {
        "auto": {
            "rules": [
                {"when": "stream", "use": ["gpt-4o", "scout"]},
                {"when": "max_output_tokens == 77", "refuse": "Never 77."},
            ]
        }
    }
}


async def explained(harness: Harness, body: Json, **more: Any) -> Json:
    response = await harness.admin("POST", PATH, {"request": body, "key": "app", **more})
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


BODIES: dict[str, Json] = {
    "plain": chat(model="auto"),
    "a card": chat(CARD, model="auto"),
    "streamed": chat(model="auto", stream=True),
    "an unknown model": chat(model="nosuch"),
    "tools": chat(model="auto", tools=[{"type": "function", "function": {"name": "f"}}]),
    "logprobs": chat(model="auto", logprobs=True),
    "an image": {
        "model": "auto",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG_URL}}]}],
    },
    "a card to one outside": chat(CARD, model="gpt-4o"),
    "refused by a rule": chat(model="auto", max_tokens=77),
}


@pytest.mark.parametrize("privacy", [None, "confidential", "nosuch"])
async def test_the_explanation_is_what_happens(privacy: str | None, tmp_path: Path) -> None:
    named = {} if privacy is None else {"x-tollway-privacy": privacy}
    async with running(tmp_path, RULED) as harness:
        for name, body in BODIES.items():
            found = await explained(harness, body, headers=named)
            response = await harness.post(body, **{"x_tollway_privacy": privacy} if privacy else {})
            assert_same(name, found, response)


def assert_same(name: str, found: Json, response: httpx.Response) -> None:
    if found["refused"] is not None:
        error = response.json()["error"]
        said = (found["refused"]["status"], found["refused"]["code"], found["refused"]["message"])
        assert (response.status_code, error["code"], error["message"]) == said, name
        return
    assert response.status_code == 200, name
    assert response.headers["x-tollway-deployment"] == found["order"][0], name
    assert response.headers["x-tollway-decision"] == found["decision"], name
    assert response.headers["x-tollway-policy"] == found["policy"], name


async def test_replicas_count_as_they_are_now(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        for state in harness.gateway.pipeline.rulebook.routes.fleet.replica_sets["scout"].replicas:
            state.is_up = False
        found = await explained(harness, chat(model="auto"))
        assert found["order"] == ["gpt-4o"]
        assert [item["constraint"] for item in found["candidates"]] == [None, "health"]


async def test_explaining_sends_holds_and_records_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        await explained(harness, chat(model="auto"))
        assert await harness.rows() == []
        assert harness.external.attempts() == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "request: Field required"),
        ({"request": {"model": "auto"}}, "Missing required parameter: 'messages'."),
        ({"request": chat(), "who": "me"}, "who: Extra inputs are not permitted"),
    ],
)
async def test_a_question_that_cannot_be_read_is_told(body: Json, message: str, tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        response = await harness.admin("POST", PATH, body)
        assert response.status_code == 400
        assert message in response.json()["error"]["message"]


async def test_without_the_token_nothing_is_explained(tmp_path: Path) -> None:
    async with running(tmp_path) as harness:
        url = f"{harness.gateway.admin_url}{PATH}"
        response = await harness.http.post(
            url, json={"request": chat()}, headers={"authorization": "Bearer x"}
        )
        assert response.status_code == 401
