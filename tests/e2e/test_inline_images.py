"""Images that a prompt names by their address go upstream as content, or not at all."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import CARD, Harness, Json, chat, running
from tests.privacy.image_host import PNG, Answer, ImageHost, image_host

IMAGE = "data:image/png;base64," + base64.b64encode(PNG).decode()


def answers(_: int) -> dict[str, Answer]:
    return {
        "/a.png": Answer(),
        "/b.png": Answer(),
        "/page": Answer(content_type="text/html", body=b"<html>"),
        "/half.png": Answer(body=PNG + b"0" * 600_000),
        "/slow": Answer(waits=True),
        f"/{CARD.replace(' ', '')}.png": Answer(),
    }


@asynccontextmanager
async def over(folder: Path, **images: Any) -> AsyncIterator[tuple[Harness, ImageHost]]:
    async with image_host(answers) as host:
        section = {"fetch": "inline", "zone": "local", "hosts": [f"127.0.0.1:{host.port}"], **images}
        async with running(folder, {"privacy": {"images": section}}) as harness:
            yield harness, host


def showing(*urls: str, text: str = "What is this?", model: str = "gpt-4o") -> Json:
    parts: list[Json] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return chat(model=model, messages=[{"role": "user", "content": parts}])


def sent(harness: Harness, text: str) -> int:
    return len(harness.external.attempts(contains=text))


@pytest.mark.parametrize("model", ["gpt-4o", "scout"])
async def test_an_image_of_a_listed_host_goes_on_as_content(model: str, tmp_path: Path) -> None:
    async with over(tmp_path) as (harness, host):
        url = f"http://127.0.0.1:{host.port}/a.png"
        response = await harness.post(showing(url, IMAGE, url, model=model))
        assert response.status_code == 200, response.text
        assert host.asked == ["GET /a.png HTTP/1.1"], "one address is asked once"
        assert len(harness.attempts(contains=IMAGE)) == 1
        assert harness.attempts(contains=url) == []
        [row] = await harness.rows()
        assert (row["privacy"], row["modalities"]) == ("internal", "image,text")


async def test_an_image_counts_as_what_media_says(tmp_path: Path) -> None:
    async with over(tmp_path) as (harness, host):
        await harness.reload(
            {
                "privacy": {
                    "media": {"image": "confidential"},
                    "images": {"fetch": "inline", "zone": "local", "hosts": [f"127.0.0.1:{host.port}"]},
                }
            }
        )
        url = f"http://127.0.0.1:{host.port}/a.png"
        assert (await harness.post(showing(url))).status_code == 403
        response = await harness.post(showing(url, model="auto"))
        assert response.headers["x-tollway-zone"] == "local"


async def test_other_hosts_are_not_asked_and_the_plan_decides(tmp_path: Path) -> None:
    async with over(tmp_path, hosts=["img.example.com"]) as (harness, host):
        url = f"http://127.0.0.1:{host.port}/a.png"
        assert (await harness.post(showing(url))).status_code == 200  # openai fetches it by itself
        assert sent(harness, url) == 1
        refused = await harness.post(showing(url, model="scout"))
        assert refused.json()["error"]["code"] == "unsupported_modality"
        assert host.asked == []


async def test_a_request_that_may_not_reach_the_zone_of_the_hosts_asks_nobody(tmp_path: Path) -> None:
    async with over(tmp_path, zone="external") as (harness, host):
        url = f"http://127.0.0.1:{host.port}/a.png"
        for request, headers in (
            (showing(url, text=f"Is this {CARD}?", model="auto"), {}),
            (showing(url, model="auto"), {"x_tollway_privacy": "confidential"}),
        ):
            assert (await harness.post(request, **headers)).status_code == 403
        assert host.asked == []
        assert harness.attempts() == []


async def test_and_where_it_may_the_class_of_its_text_still_holds(tmp_path: Path) -> None:
    async with over(tmp_path) as (harness, host):
        url = f"http://127.0.0.1:{host.port}/a.png"
        response = await harness.post(showing(url, text=f"Is this {CARD}?", model="auto"))
        assert response.headers["x-tollway-zone"] == "local"
        assert len(host.asked) == 1


async def test_a_value_in_the_address_is_told_to_nobody(tmp_path: Path) -> None:
    async with over(tmp_path) as (harness, host):
        url = f"http://127.0.0.1:{host.port}/{CARD.replace(' ', '')}.png"
        assert (await harness.post(showing(url, model="auto"))).status_code == 403
        assert host.asked == []
        assert harness.attempts() == []


@pytest.mark.parametrize(
    ("paths", "changes", "why"),
    [
        (["/a.png", "/page"], {}, "'messages[0].content[2]' was not fetched: it is no image"),
        (["/gone"], {}, "answered 404"),
        (["/slow"], {"deadline_ms": 50}, "it took longer than 0.05 s"),
        (["/half.png", "/half.png?again"], {"max_mib": 1}, "that are left for images"),
        (["/a.png", "/b.png"], {"max_images": 1}, "at most 1 images"),
    ],
)
async def test_an_image_that_cannot_be_had_is_the_client_s_error(
    paths: list[str], changes: Json, why: str, tmp_path: Path
) -> None:
    async with over(tmp_path, **changes) as (harness, host):
        response = await harness.post(showing(*(f"http://127.0.0.1:{host.port}{path}" for path in paths)))
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "invalid_image_url")
        assert why in error["message"]
        assert error["param"].startswith("messages[0].content[")
        assert str(host.port) not in error["message"]
        assert harness.attempts() == []


async def test_without_public_addresses_nothing_at_home_is_asked(tmp_path: Path) -> None:
    async with over(tmp_path, zone="external") as (harness, host):
        response = await harness.post(showing(f"http://127.0.0.1:{host.port}/a.png"))
        assert response.status_code == 400
        assert "its address is not public" in response.json()["error"]["message"]
        assert host.asked == []
