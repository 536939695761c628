"""Settings that still load but have no effect. To end one, remove it here and from the schema."""

from typing import Final

from gateway.config.findings import Findings
from gateway.config.places import Place

DEPRECATED: Final = {
    "server.upstream_client": "has no effect: there is one client; remove it, it is refused from 0.3 on",
}


def check_deprecated(root: Place, findings: Findings) -> None:
    for pattern, message in DEPRECATED.items():
        for place in root.find(pattern):
            findings.warn(place, message)
