"""A deployment behind a forward proxy: the whole way through a gateway, and never around it."""

from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest

from tests.e2e.harness import Harness, Json, chat, running, unused_url
from tests.http.client.forward_proxy import ForwardProxy

CREDENTIALS = b"gateway:hunter2/secret"


def behind(proxy: ForwardProxy, password: str = "hunter2%2Fsecret") -> Json:
    """GPT-4o under a name that only the proxy can resolve."""
    url = f"http://gateway:{password}@127.0.0.1:{proxy.port}"
    return {"deployments": {"gpt-4o": {"base_url": "http://hosted.test:8000/v1", "proxy": url}}}


def leads_to(proxy: ForwardProxy, harness: Harness) -> None:
    port = urlsplit(harness.external.url).port
    assert port is not None
    proxy.routes["hosted.test:8000"] = port


async def test_answers_and_streams_come_through_the_proxy(tmp_path: Path):
    proxy = ForwardProxy({}, CREDENTIALS)
    async with proxy.running(), running(tmp_path, behind(proxy)) as harness:
        leads_to(proxy, harness)
        whole = await harness.client().chat.completions.create(**chat())
        assert whole.choices[0].message.content
        stream = await harness.client().chat.completions.create(**chat(), stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text
        await harness.external.settled()
        rows = await harness.rows()
        assert [(row["outcome"], row["deployment"]) for row in rows] == [("success", "gpt-4o")] * 2
        assert proxy.targets() == ["hosted.test:8000"]  # one tunnel, used again
        assert b"hunter2" not in proxy.carried
        await proxy.cut()


async def test_a_proxy_that_refuses_is_an_upstream_that_cannot_be_reached(tmp_path: Path):
    proxy = ForwardProxy({}, CREDENTIALS)
    async with proxy.running(), running(tmp_path, behind(proxy, "hunter3")) as harness:
        leads_to(proxy, harness)
        with pytest.raises(openai.APIStatusError) as refused:
            await harness.client().chat.completions.create(**chat())
        assert refused.value.status_code == 502
        assert "hunter" not in str(refused.value)
        rows = await harness.rows()
        assert {row["outcome"] for row in rows} == {"connect_error"}
        assert "hunter" not in str(rows)
        assert await harness.external.settled() == []


async def test_a_zone_with_networks_sends_nothing_through_a_proxy(tmp_path: Path):
    proxy = ForwardProxy({})
    async with proxy.running():
        changes = {"deployments": {"scout": {"proxy": f"http://127.0.0.1:{proxy.port}"}}}
        async with running(tmp_path, changes) as harness:
            with pytest.raises(openai.APIStatusError):
                await harness.client().chat.completions.create(**chat(model="scout"))
            await harness.settled()
        assert proxy.heads == []


async def test_proxies_of_the_environment_are_not_used_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, unused_url())
    async with running(tmp_path) as harness:
        client = harness.client(http_client=openai.DefaultAsyncHttpxClient(trust_env=False))
        answer = await client.chat.completions.create(**chat())
        assert answer.choices[0].message.content
