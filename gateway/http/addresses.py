"""IP addresses: how they are written and read, and where they lie."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway.core.endpoint import IpNetwork

IpAddress = IPv4Address | IPv6Address


def host_port(host: str, port: int) -> str:
    """`ip:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unwrapped(text: str) -> IpAddress:
    """The IP address that `text` writes; `::ffff:10.0.0.1` is 10.0.0.1, and the scope is dropped."""
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def inside(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
    return any(address in network for network in networks)
