"""Holes in the file itself: where its own zones contradict each other.

- Callers and detectors can only raise a class, so raising must never open a zone.
- One server cannot be in two zones: what may not go to it under one name may not go to it under another.
- A zone called `local` without networks of its own holds no hosted service and no public address.
"""

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from gateway.config.build import Built
from gateway.config.catalogue import Deployment
from gateway.config.privacy import HOME_ZONE
from gateway.core.catalog import Model
from gateway.policy.explain import PRIVACY_HEADER
from gateway.policy.proof.results import Hole

# Domains under which models are hosted as a service.
_HOSTED: Final = (
    *("openai.com", "azure.com", "azure.net", "anthropic.com", "googleapis.com", "amazonaws.com"),
    *("mistral.ai", "cohere.com", "groq.com", "together.xyz", "together.ai", "fireworks.ai", "deepinfra.com"),
    *("openrouter.ai", "x.ai", "deepseek.com", "perplexity.ai", "huggingface.co", "replicate.com"),
)


def boundary_holes(built: Built) -> list[Hole]:
    """Every such contradiction, with a request that shows it."""
    return [
        *_raising_opens(built),
        *_one_server_in_two_zones(built),
        *_address_of_another_zone(built),
        *_home_is_elsewhere(built),
    ]


def _raising_opens(built: Built) -> Iterator[Hole]:
    """A zone that is shut to a class although a less sensitive one may reach it, and open again above.

    Whoever may not go there as `confidential` would only have to say `restricted`. A zone that is shut to the
    lower classes only is meant so: it is dearer, or nearer.
    """
    privacy = built.settings.privacy
    for zone in built.settings.zones:
        admits = [zone in privacy.zones[name] for name in privacy.classes]
        for rank, name in enumerate(privacy.classes):
            if admits[rank] or not any(admits[:rank]) or not any(admits[rank:]):
                continue
            above = admits.index(True, rank)
            found = _opened(built, name, privacy.classes[above], zone)
            if found is not None:
                yield found
            break


def _opened(built: Built, low: str, high: str, zone: str) -> Hole | None:
    for model in built.policy.models.values():
        for deployment in model.use:
            if deployment.zone == zone:
                path = f"raised to {high}, which may reach zone {zone} although {low} must not"
                line = built.policy.zone_lines.get(high)
                return _hole(built, low, deployment.name, model.name, path, line, named=high)
    return None


def _one_server_in_two_zones(built: Built) -> Iterator[Hole]:
    servers: dict[tuple[str, int], list[str]] = {}
    for name, given in _deployments(built):
        for server in _servers(given):
            servers.setdefault(server, []).append(name)
    for (host, port), names in servers.items():
        for first in names:
            for second in names:
                here, there = (built.settings.deployments[name].zone for name in (first, second))
                yield from _forbidden(
                    built,
                    first,
                    here,
                    there,
                    f"{host}:{port} is zone {there} as {second}, and {here} as {first}",
                )


def _address_of_another_zone(built: Built) -> Iterator[Hole]:
    """An address without a network of its own zone that lies in another zone's."""
    zones = built.settings.zones
    for name, given in _deployments(built):
        if zones[given.zone].cidrs:
            continue  # then an address outside of them is an error at load, and refused at connect
        for host, _ in _servers(given):
            address = _address(host)
            for other, zone in zones.items():
                networks = [ipaddress.ip_network(item) for item in zone.cidrs]
                if address is not None and any(address in network for network in networks):
                    path = f"{host} lies in the cidrs of zone {other}, and {name} calls it {given.zone}"
                    yield from _forbidden(built, name, given.zone, other, path)


def _home_is_elsewhere(built: Built) -> Iterator[Hole]:
    """Somebody else's server in the zone `local`. With `cidrs`, no connection to it would ever be made."""
    privacy, zones = built.settings.privacy, built.settings.zones
    if HOME_ZONE not in zones or zones[HOME_ZONE].cidrs:
        return
    # Those that may go nowhere else are the ones that rely on it.
    relying = [name for name in privacy.classes if privacy.zones[name] == (HOME_ZONE,)]
    for name, given in _deployments(built):
        elsewhere = [host for host, _ in _servers(given) if _is_public(host)]
        if given.zone == HOME_ZONE and elsewhere and relying:
            path = f"{elsewhere[0]} is no server of one's own, and {name} calls it {HOME_ZONE}"
            model = next((item.name for item in built.policy.models.values() if name in _names(item)), None)
            line = built.policy.deployments[name].lines.get("zone")
            if model is not None:
                yield _hole(built, relying[0], name, model, path, line, named=relying[0])


def _deployments(built: Built) -> list[tuple[str, Deployment]]:
    """Those that can be reached: what is not in force yet has no plan either."""
    return [(name, built.settings.deployments[name]) for name in built.policy.deployments]


def _names(model: Model) -> set[str]:
    return {item.name for item in model.use}


def _is_public(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_global
    return any(host == domain or host.endswith(f".{domain}") for domain in _HOSTED)


def _forbidden(built: Built, deployment: str, called: str, really: str, path: str) -> Iterator[Hole]:
    """Holes for the classes that may reach zone `called` but not `really`."""
    privacy = built.settings.privacy
    line = built.policy.deployments[deployment].lines.get("zone")
    for model in built.policy.models.values():
        if deployment not in _names(model):
            continue
        admits = [really in privacy.zones[name] for name in privacy.classes]
        for rank, name in enumerate(privacy.classes):
            # Shut to it because it is too sensitive, and not because it is not sensitive enough.
            if called in privacy.zones[name] and not admits[rank] and any(admits[:rank]):
                yield _hole(built, name, deployment, model.name, path, line, named=name, zone=really)
                return


def _hole(
    built: Built,
    privacy: str,
    deployment: str,
    model: str,
    path: str,
    line: int | None,
    *,
    named: str,
    zone: str | None = None,
) -> Hole:
    key = next((item for item in built.tenancy.keys.values() if item.default.may_use(model)), None)
    return Hole(
        privacy=privacy,
        zone=zone or built.settings.deployments[deployment].zone,
        deployment=deployment,
        path=path,
        line=line,
        model=model,
        key=key.name if key else "",
        feature=key.default.feature if key else "",
        request={
            "headers": {PRIVACY_HEADER: named},
            "body": {"model": model, "messages": [{"role": "user", "content": "sample"}]},
        },
    )


def _servers(given: Deployment) -> list[tuple[str, int]]:
    """Host and port of each. Not those of this machine: what listens there may pass bytes on to anywhere."""
    urls = given.replicas.urls if given.replicas and given.replicas.urls else ()
    found = []
    for url in (given.base_url, *urls):
        parts = urlsplit(url or "")
        address = _address(parts.hostname or "")
        here = parts.hostname == "localhost" or (address is not None and address.is_loopback)
        if parts.hostname and not here:
            found.append((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)))
    return found


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
