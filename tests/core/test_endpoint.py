"""Where bytes go, as it is written on the wire."""

import pytest

from gateway.core.catalog import Api, Replica
from gateway.core.endpoint import Endpoint
from tests.core.builders import replica


@pytest.mark.parametrize(
    ("scheme", "host", "port", "authority"),
    [
        ("https", "api.openai.com", 443, "api.openai.com"),
        ("http", "llama", 80, "llama"),
        ("https", "llama", 80, "llama:80"),
        ("http", "10.0.0.1", 8000, "10.0.0.1:8000"),
        ("http", "::1", 8000, "[::1]:8000"),
        ("https", "fd00::1", 443, "[fd00::1]"),
    ],
)
def test_the_host_header_leaves_out_the_schemes_own_port(scheme: str, host: str, port: int, authority: str):
    assert Endpoint(scheme=scheme, host=host, port=port).authority == authority


def test_equal_endpoints_share_a_connection_pool():
    one, same = (Endpoint(scheme="http", host="a", port=1) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Endpoint(scheme="http", host="a", port=2)


@pytest.mark.parametrize(
    ("api", "target"),
    [
        (Api.CHAT, b"/v1/chat/completions"),
        (Api.COMPLETIONS, b"/v1/completions"),
        (Api.EMBEDDINGS, b"/v1/embeddings"),
    ],
)
def test_each_api_has_its_path_under_the_base_of_the_server(api: Api, target: bytes):
    assert replica().target(api) == target


def test_a_query_comes_after_the_path():
    azure = Replica("a:443", Endpoint(scheme="https", host="a", port=443), "/openai", "?api-version=1")
    assert azure.target(Api.CHAT) == b"/openai/chat/completions?api-version=1"
