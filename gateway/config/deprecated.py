"""Settings that still load but have no effect. To end one, remove it here and from the schema."""

from typing import Final

from gateway.config.nodes import ConfigNode
from gateway.config.problem_report import ProblemReport

DEPRECATED: Final = {
    "server.upstream_client": "has no effect: there is one client; remove it, it is refused from 0.3 on",
}


def check_deprecated(root: ConfigNode, report: ProblemReport) -> None:
    for pattern, message in DEPRECATED.items():
        for place in root.find(pattern):
            report.warn(place, message)
