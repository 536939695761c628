"""Forward proxies: of a deployment, and of the environment where the file asks for them."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config.build import build
from gateway.config.load import Loaded, load
from gateway.config.proxies import ProxyEnvironment, UnusableProxy, proxies_of, proxy_of
from gateway.core.catalog import Deployment
from gateway.core.endpoint import Endpoint, Proxy
from tests.core.files import ENVIRON, PRICES, TODAY, built, changed

PROXY = Proxy(scheme="http", host="p.test", port=3128)
FROM_ENV = ("max_body_mib: 64", "max_body_mib: 64\n  proxy_from_env: true")
OF_ITS_OWN = ("    zone: external", "    proxy: https://own.test\n    zone: external")
VARIABLES = {"HTTPS_PROXY": "http://u:hunter2@p.test:3128", "HTTP_PROXY": "http://plain.test:8080"}


def read(folder: Path, environ: Mapping[str, str], *replacements: tuple[str, str]) -> Loaded:
    path = folder / "tollway.yaml"
    path.write_text(changed(*replacements))
    return load(path, {**ENVIRON, **environ}, today=TODAY)


def deployments(
    folder: Path, environ: Mapping[str, str], *replacements: tuple[str, str]
) -> Mapping[str, Deployment]:
    made, problems = build(read(folder, environ, *replacements), PRICES)
    assert made is not None, problems
    return made.policy.deployments


def proxy_of_gpt(folder: Path, environ: Mapping[str, str], *replacements: tuple[str, str]) -> Proxy | None:
    [replica] = deployments(folder, environ, *replacements)["gpt-4o"].replicas
    return replica.endpoint.proxy


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://p.test:3128", PROXY),
        ("http://P.test:3128/", PROXY),
        ("http://p.test", Proxy(scheme="http", host="p.test", port=80)),
        ("https://p.test", Proxy(scheme="https", host="p.test", port=443)),
        ("http://[::1]:3128", Proxy(scheme="http", host="::1", port=3128)),
        ("http://u@p.test:1", Proxy(scheme="http", host="p.test", port=1, credentials=b"u:")),
        ("http://u:p@p.test:1", Proxy(scheme="http", host="p.test", port=1, credentials=b"u:p")),
        ("http://:p@p.test:1", Proxy(scheme="http", host="p.test", port=1, credentials=b":p")),
        (
            "http://us%20er:p%40ss%3A%C3%BC@p.test:1",
            Proxy(scheme="http", host="p.test", port=1, credentials="us er:p@ss:ü".encode()),
        ),
    ],
)
def test_what_a_url_names(url: str, proxy: Proxy) -> None:
    assert proxy_of(url) == proxy


def test_a_deployment_has_the_proxy_that_the_file_gives_it(tmp_path: Path) -> None:
    made = built(
        tmp_path, ("    zone: external", "    proxy: http://u:p%2Fw@p.test:3128\n    zone: external")
    )
    [replica] = made.policy.deployments["gpt-4o"].replicas
    assert replica.endpoint.proxy == Proxy(scheme="http", host="p.test", port=3128, credentials=b"u:p/w")
    assert "p/w" not in repr(made.policy)
    assert "p%2Fw" not in repr(made)


# --- the environment ---


def test_the_environment_has_no_effect_unless_asked_for(tmp_path: Path) -> None:
    assert proxy_of_gpt(tmp_path, VARIABLES) is None
    assert proxy_of_gpt(tmp_path, VARIABLES, ("max_body_mib: 64", "proxy_from_env: false")) is None


def test_the_environment_is_honoured_where_the_file_says_so(tmp_path: Path) -> None:
    found = proxy_of_gpt(tmp_path, VARIABLES, FROM_ENV)
    assert found == Proxy(scheme="http", host="p.test", port=3128, credentials=b"u:hunter2")
    assert proxy_of_gpt(tmp_path, {**VARIABLES, "NO_PROXY": "openai.com"}, FROM_ENV) is None
    assert proxy_of_gpt(tmp_path, {"HTTP_PROXY": "http://plain.test:8080"}, FROM_ENV) is None


def test_a_zone_with_networks_is_reached_directly(tmp_path: Path) -> None:
    for replica in deployments(tmp_path, VARIABLES, FROM_ENV)["llama-4-scout"].replicas:
        assert replica.endpoint.networks is not None
        assert replica.endpoint.proxy is None


def test_a_deployments_own_proxy_goes_before_the_environments(tmp_path: Path) -> None:
    own = Proxy(scheme="https", host="own.test", port=443)
    for environ in (VARIABLES, {**VARIABLES, "NO_PROXY": "*"}):
        assert proxy_of_gpt(tmp_path, environ, FROM_ENV, OF_ITS_OWN) == own


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HTTPS_PROXY", "socks5://hunter2:1", "HTTPS_PROXY of the environment must be the URL of a forward"),
        ("https_proxy", "http://hunter2:70000", "HTTPS_PROXY of the environment is not a URL"),
        ("HTTP_PROXY", "http://hunter 2", "HTTP_PROXY of the environment must be a URL in ASCII"),
        ("NO_PROXY", "a.test,hunter2/33", "NO_PROXY of the environment: entry 2 must be *, a host name"),
    ],
)
def test_a_variable_that_cannot_be_used_is_an_error_of_the_file(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    loaded = read(tmp_path, {name: value}, FROM_ENV)
    [problem] = loaded.errors
    assert problem.path == ("server", "proxy_from_env")
    assert said in problem.message
    assert "hunter2" not in str(problem)
    assert loaded.settings is None
    assert read(tmp_path, {name: value}).errors == []  # nobody asked for it


def test_lower_case_goes_before_upper_case() -> None:
    both = {"HTTPS_PROXY": "http://upper.test:1", "https_proxy": "p.test:3128"}
    assert proxies_of(both).https == PROXY
    assert proxies_of({"HTTPS_PROXY": "http://p.test:3128"}).https == PROXY
    assert proxies_of({**both, "https_proxy": ""}).https is None
    assert proxies_of({}) == ProxyEnvironment()


def test_http_and_https_have_a_variable_each() -> None:
    proxies = proxies_of({"HTTPS_PROXY": "http://s.test:1", "HTTP_PROXY": "http://p.test:3128"})
    assert proxies.proxy_for(Endpoint(scheme="http", host="a.test", port=80)) == PROXY
    found = proxies.proxy_for(Endpoint(scheme="https", host="a.test", port=443))
    assert found is not None
    assert found.host == "s.test"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "localhost", "a.localhost"]
)
def test_loopback_is_reached_directly(host: str) -> None:
    proxies = ProxyEnvironment(http=PROXY)
    assert proxies.proxy_for(Endpoint(scheme="http", host=host, port=8000)) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "a.test", 443, False),
        ("*", "a.test", 443, True),
        ("*", "10.0.0.1", 443, True),
        ("*:443", "a.test", 443, True),
        ("*:443", "a.test", 80, False),
        ("b.test, *", "a.test", 443, True),
        # names
        ("a.test", "a.test", 443, True),
        ("A.Test", "a.tesT", 443, True),
        ("a.test.", "a.test", 443, True),
        ("a.test", "a.test.", 443, True),
        ("a.test", "x.a.test", 443, True),
        ("a.test", "xa.test", 443, False),
        ("a.test", "a.test.evil.test", 443, False),
        (".a.test", "x.a.test", 443, True),
        (".a.test", "a.test", 443, True),
        ("*.a.test", "x.y.a.test", 443, True),
        ("x.a.test", "a.test", 443, False),
        ("b.test,,\ta.test\n", "a.test", 443, True),
        ("b.test a.test", "a.test", 443, True),
        ("my_host", "my_host", 443, True),
        # ports
        ("a.test:443", "a.test", 443, True),
        ("a.test:443", "a.test", 8443, False),
        (".a.test:8443", "x.a.test", 8443, True),
        ("10.0.0.1:8000", "10.0.0.1", 8000, True),
        ("10.0.0.1:8000", "10.0.0.1", 8001, False),
        ("[fd00::1]:8000", "fd00::1", 8000, True),
        ("[fd00::1]:8000", "fd00::1", 8001, False),
        # addresses and networks
        ("10.0.0.1", "10.0.0.1", 443, True),
        ("10.0.0.1", "10.0.0.10", 443, False),
        ("10.0.0.1", "::ffff:10.0.0.1", 443, True),
        ("::ffff:10.0.0.1", "10.0.0.1", 443, True),
        ("10.0.0.0/8", "10.9.9.9", 443, True),
        ("10.0.0.0/8", "11.0.0.1", 443, False),
        ("10.0.0.5/8", "10.9.9.9", 443, True),
        ("10.0.0.0/8", "ten.test", 443, False),
        ("fd00::/8", "fd12::1", 443, True),
        ("fd00::/8", "fe80::1", 443, False),
        ("[fd00::1]", "fd00::1", 443, True),
        ("fd00::1", "fd00:0::1", 443, True),
        ("0.1", "10.0.0.1", 443, False),
    ],
)
def test_what_no_proxy_covers(no_proxy: str, host: str, port: int, direct: bool) -> None:
    proxies = proxies_of({"HTTPS_PROXY": "http://p.test:3128", "NO_PROXY": no_proxy})
    endpoint = Endpoint(scheme="https", host=host, port=port)
    assert proxies.proxy_for(endpoint) == (None if direct else PROXY)


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "a b/", "a.test:x", "a..test", "http://a.test", "[fd00::1", "10.*"]
)
def test_entries_that_mean_nothing_are_refused(entry: str) -> None:
    with pytest.raises(UnusableProxy, match="NO_PROXY"):
        proxies_of({"NO_PROXY": entry})
