"""What the policy language says, seen from a client: successors, licences, refusals, shares, tags."""

from collections import Counter
from pathlib import Path

from tests.e2e.harness import Json, chat, running


def auto(**model: object) -> Json:
    return {"models": {"auto": {"use": ["scout", "gpt-4o"], **model}}}


async def test_after_its_last_day_the_successor_answers_for_a_deployment(tmp_path: Path) -> None:
    retired = {"deployments": {"gpt-4o": {"retires_on": "2026-01-31", "successor": "scout"}}}
    async with running(tmp_path, retired) as harness:
        response = await harness.post(chat(model="gpt-4o"))
        assert response.status_code == 200
        assert response.headers["x-tollway-deployment"] == "scout"
        (row,) = await harness.rows()
        assert (row["model"], row["deployment"], row["zone"]) == ("gpt-4o", "scout", "local")


async def test_without_a_successor_the_client_is_told(tmp_path: Path) -> None:
    retired = {"deployments": {"gpt-4o": {"retires_on": "2026-01-31"}}}
    async with running(tmp_path, retired) as harness:
        response = await harness.post(chat(model="gpt-4o"))
        assert (response.status_code, response.json()["error"]["code"]) == (400, "model_retired")
        assert "2026-01-31" in response.json()["error"]["message"]


async def test_weights_whose_licence_is_withheld_never_answer(tmp_path: Path) -> None:
    forbidden = {
        "org": {"licensee_eu_domiciled": True, "license_conflicts": "forbid"},
        "deployments": {"scout": {"license": "llama-4-community"}},
    }
    async with running(tmp_path, forbidden) as harness:
        assert (await harness.post(chat(model="auto"))).headers["x-tollway-deployment"] == "gpt-4o"
        response = await harness.post(chat(model="scout"))
        assert (response.status_code, response.json()["error"]["code"]) == (400, "license_forbids")


async def test_a_rule_refuses_in_its_own_words_before_anything_is_held(tmp_path: Path) -> None:
    refusing = auto(rules=[{"when": 'feature == "search"', "refuse": "Search is closed until Monday."}])
    async with running(tmp_path, refusing) as harness:
        response = await harness.post(chat(model="auto"))
        assert response.status_code == 403
        error = response.json()["error"]
        assert (error["code"], error["message"]) == ("refused_by_rule", "Search is closed until Monday.")
        assert await harness.rows() == []
        other = await harness.post(chat(model="auto"), x_tollway_feature="triage")
        assert other.status_code == 200


async def test_a_session_stays_and_many_sessions_share(tmp_path: Path) -> None:
    shared = auto(prefer="weights", weights={"scout": 1, "gpt-4o": 1}, sticky=True)
    async with running(tmp_path, shared) as harness:
        first: dict[str, str] = {}
        for number in range(24):
            session = f"s-{number % 12}"
            response = await harness.post(chat(model="auto"), x_tollway_session=session)
            answered = response.headers["x-tollway-deployment"]
            assert first.setdefault(session, answered) == answered
        assert set(Counter(first.values())) == {"scout", "gpt-4o"}


async def test_rules_see_the_tags_of_the_header(tmp_path: Path) -> None:
    tagged = auto(rules=[{"when": '"phase" in tags && tags.phase == "explore"', "use": ["gpt-4o"]}])
    async with running(tmp_path, tagged) as harness:
        plain = await harness.post(chat(model="auto"))
        explored = await harness.post(chat(model="auto"), x_tollway_tags="phase=explore")
        assert plain.headers["x-tollway-deployment"] == "scout"
        assert explored.headers["x-tollway-deployment"] == "gpt-4o"
        assert explored.headers["x-tollway-decision"] == "rule-1"
