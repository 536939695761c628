"""Which address a request comes from: that of its connection, or one that a trusted proxy names."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_network

from gateway.core.endpoint import IpNetwork
from gateway.http.addresses import IpAddress, inside, unwrapped

FORWARDED_FOR = b"x-forwarded-for"
# So many proxies stand in front of nobody; what is farther to the left is not read.
MOST_HOPS = 32
# One customer's part of IPv6: who has one has all of its addresses.
IPV6_PREFIX = 64


class ClientAddresses:
    """`trusted` are the networks of proxies whose `x-forwarded-for` counts. They can change at any time."""

    def __init__(self, trusted: Sequence[IpNetwork] = ()) -> None:
        self.trusted = trusted

    def of(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The client's address, for a request that came over the connection of `peer` (`ip:port`).

        Each proxy appends who it was asked by. So it is read from the right, for as long as those who wrote
        it are trusted: what stands farther to the left anybody can have sent.
        """
        found = peer.rpartition(":")[0].strip("[]")
        if not self.trusted:
            return found
        told = headers.get(FORWARDED_FOR, b"").decode("latin-1").rsplit(",", MOST_HOPS)[-MOST_HOPS:]
        while told and self._is_trusted(found):
            hop = _address_in(told.pop().strip())
            if hop is None:
                break  # a name, `unknown`, or nothing: the last one that is known has to do
            found = str(hop)
        return found

    def _is_trusted(self, text: str) -> bool:
        address = _address_in(text)
        return address is not None and inside(address, self.trusted)


def network_of(address: str) -> str:
    """What of `address` is one client: all of an IPv4 address, the first half of an IPv6 one."""
    found = _address_in(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((found, IPV6_PREFIX), strict=False))
    return address if found is None else str(found)


def _address_in(text: str) -> IpAddress | None:
    """The address in `text`, which may have a port behind it."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return unwrapped(text)
    except ValueError:
        return None
