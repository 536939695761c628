"""Addresses against each other: the listeners, and where each deployment's bytes go against its zone."""

import ipaddress
from collections.abc import Iterator
from decimal import Decimal
from typing import Final
from urllib.parse import SplitResult, urlsplit

from gateway.config.kinds import exact_number
from gateway.config.nodes import ConfigNode
from gateway.config.problem_report import ProblemReport
from gateway.config.references import Check

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_EVERY_INTERFACE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound to


def check_listeners(root: ConfigNode, report: ProblemReport) -> None:
    data, admin = root["server"]["data"], root["server"]["admin"]
    if _port(data, "8080") != _port(admin, "8081") or not _port(data, "8080"):
        return
    hosts = {data["host"].text or "127.0.0.1", admin["host"].text or "127.0.0.1"}
    if len(hosts) == 1 or hosts & _EVERY_INTERFACE:
        node = admin["port"] if admin["port"].exists else data["port"]
        report.error(node, "is the same for data and admin on one host: give each its own port")


def _port(listener: ConfigNode, default: str) -> Decimal | None:
    """The port as a number; None where it is not known, and 0 (any free one) as the file may say."""
    return exact_number(listener["port"].text if listener["port"].exists else default)


def check_zones_of_addresses(root: ConfigNode, report: ProblemReport) -> None:
    for _, deployment in root["deployments"].entries():
        zone = root["zones"][deployment["zone"].text or ""]
        if not zone.path[-1] or zone.parsed is None:
            continue
        for url in _urls(deployment):
            _check_inside(url, zone, report)
            _warn_of_plain_http(url, zone, report)


def check_proxies(root: ConfigNode, report: ProblemReport) -> None:
    """The address behind a proxy is not known, so a zone with cidrs has none that could be allowed."""
    for _, deployment in root["deployments"].entries():
        zone = root["zones"][deployment["zone"].text or ""]
        if deployment["proxy"].exists and zone.path[-1] and _networks(zone):
            report.warn(
                deployment["proxy"],
                f"addresses behind a proxy cannot be checked against the cidrs of zone {zone.path[-1]}: no "
                "request is sent; remove proxy, or give the deployment a zone without cidrs",
            )


def check_collector(root: ConfigNode, report: ProblemReport) -> None:
    """Spans hold no prompt, but a header can be a credential."""
    traces = root["telemetry"]["traces"]
    parts = _parsed(traces["endpoint"])
    if parts is None or parts.scheme != "http" or _is_loopback(parts) or not traces["headers"].keys():
        return
    address = _literal_address(parts)
    if address is None or not address.is_private:
        report.warn(
            traces["endpoint"], "sends headers unencrypted: use https, unless the network is your own"
        )


def _urls(deployment: ConfigNode) -> Iterator[ConfigNode]:
    if deployment["base_url"].exists:
        yield deployment["base_url"]
    yield from deployment["replicas"]["urls"].items()


def _check_inside(url: ConfigNode, zone: ConfigNode, report: ProblemReport) -> None:
    address = _literal_address(_parsed(url))
    networks = _networks(zone)
    if address is None or not networks:
        return
    if not any(address in network for network in networks):
        shown = f"{address}" if url.is_literal else "its address"
        report.error(url, f"{shown} lies outside the cidrs of zone {zone.path[-1]}")


def _warn_of_plain_http(url: ConfigNode, zone: ConfigNode, report: ProblemReport) -> None:
    parts = _parsed(url)
    if parts is None or parts.scheme != "http" or _is_loopback(parts):
        return
    networks = _networks(zone)
    if not networks or not all(network.is_private for network in networks):
        report.warn(url, "sends prompts and api_key unencrypted beyond private networks: use https")


def _parsed(url: ConfigNode) -> SplitResult | None:
    try:
        return urlsplit(url.text) if url.text else None
    except ValueError:  # the schema has reported it
        return None


def _literal_address(parts: SplitResult | None) -> IpAddress | None:
    try:
        address = ipaddress.ip_address((parts and parts.hostname) or "")
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else address


def _is_loopback(parts: SplitResult) -> bool:
    address = _literal_address(parts)
    return address.is_loopback if address is not None else parts.hostname == "localhost"


def _networks(zone: ConfigNode) -> list[IpNetwork]:
    networks: list[IpNetwork] = []
    for text in zone["cidrs"].texts():
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:  # the schema has reported it
            continue
    return networks


CHECKS: tuple[Check, ...] = (check_listeners, check_zones_of_addresses, check_proxies, check_collector)
