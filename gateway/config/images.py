"""Schema of images that the gateway fetches itself, and of the hosts that it may ask."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gateway.config.kinds import Count, Name, Section, nonempty, refusal

_LABEL: Final = r"[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?"
_IMAGE_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*(?::[1-9][0-9]{{0,4}})?")


def _image_host(value: str) -> str:
    host = value.lower()
    if not _IMAGE_HOST.fullmatch(host) or int(host.rpartition(":")[2] or 0 if ":" in host else 0) > 65_535:
        raise refusal("must be a host such as images.example.com, *.cdn.example.com or store.local:8443")
    if host.startswith("*.") and "." not in host[2:]:
        raise refusal("must name a domain of one's own below the star, such as *.cdn.example.com")
    return host


ImageHost = Annotated[str, BeforeValidator(nonempty), AfterValidator(_image_host)]


class Images(Section):
    """Images that a prompt names by their http(s) address. Those of `hosts` are fetched by the gateway. Other
    addresses stay as they are, and only deployments with `fetches_urls` may answer."""

    fetch: Literal["inline"] = Field(description="inline: the gateway fetches them and sends them as content")
    zone: Name = Field(
        description="the zone of the hosts, whose `cidrs` hold their addresses; without `cidrs` only public "
        "addresses are asked. Only for requests whose class may reach it"
    )
    hosts: tuple[ImageHost, ...] = Field(
        description="hosts that may be asked, also after a redirect; without a port 443 and 80", min_length=1
    )
    max_mib: Count = Field(default=10, description="most MiB for all images of a request")
    max_images: Count = Field(default=10, description="most images of a request")
    deadline_ms: Count = Field(default=10_000, description="most milliseconds for all images of a request")


def listed_hosts(hosts: tuple[str, ...]) -> frozenset[str]:
    """`hosts` with the ports that they mean."""
    return frozenset(host if ":" in host else f"{host}:{port}" for host in hosts for port in (443, 80))
