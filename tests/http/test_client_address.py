"""Which address a request comes from, and what of it counts as one client."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.client_address import MOST_HOPS, ClientAddresses, network_of

TRUSTED = ClientAddresses((ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
PROXY = "10.0.0.7:40000"


def client(forwarded: str | None, peer: str = PROXY, by: ClientAddresses = TRUSTED) -> str:
    return by.of(peer, {} if forwarded is None else {b"x-forwarded-for": forwarded.encode("latin-1")})


@pytest.mark.parametrize(
    ("forwarded", "found"),
    [
        (None, "10.0.0.7"),
        ("", "10.0.0.7"),
        ("203.0.113.5", "203.0.113.5"),
        ("1.2.3.4, 203.0.113.5", "203.0.113.5"),
        ("1.2.3.4,203.0.113.5 , 10.1.1.1,10.2.2.2", "203.0.113.5"),
        ("203.0.113.5:1234", "203.0.113.5"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("::ffff:10.9.9.9", "10.9.9.9"),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("1.2.3.4, unknown", "10.0.0.7"),
        ("1.2.3.4, garbage, 10.1.1.1", "10.1.1.1"),
        ("1.2.3.4,", "10.0.0.7"),
    ],
)
def test_the_rightmost_address_that_no_trusted_proxy_has_is_the_client_s(forwarded: str | None, found: str):
    assert client(forwarded) == found


def test_what_somebody_else_forwards_is_not_believed():
    assert client("1.2.3.4", peer="203.0.113.5:99") == "203.0.113.5"
    assert client("1.2.3.4", by=ClientAddresses()) == "10.0.0.7"
    assert client("1.2.3.4", peer="") == ""


def test_an_ipv6_proxy_can_be_trusted():
    assert client("1.2.3.4", peer="[fd00::1]:99") == "1.2.3.4"
    assert client("1.2.3.4", peer="[2001:db8::9]:99") == "2001:db8::9"


def test_a_chain_longer_than_any_is_read_so_far_and_no_farther():
    assert client("1.2.3.4, " + ", ".join(["10.1.1.1"] * 5000)) == "10.1.1.1"
    assert client("1.2.3.4, " + ", ".join(["10.1.1.1"] * (MOST_HOPS - 1))) == "1.2.3.4"


@given(st.text(max_size=60), st.ip_addresses(v=4).filter(lambda one: one not in ip_network("10.0.0.0/8")))
def test_nothing_that_a_client_writes_before_it_changes_what_the_proxy_has_seen(written: str, seen: object):
    sent = written.encode("utf-8", "surrogatepass").decode("latin-1")
    assert client(f"{sent},{seen}") == str(seen)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_not_be_understood(forwarded: bytes):
    assert TRUSTED.of(PROXY, {b"x-forwarded-for": forwarded})


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_who_has_an_ipv6_address_has_all_of_its_network(address: str, network: str):
    assert network_of(address) == network
