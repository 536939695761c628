"""What stands in for a variable that is not set, for those who read a file and serve nothing.

Reports need no credentials of upstreams, no keys of clients and no addresses to connect to, and a check in CI
has none of them. What decides anything else, such as a name or a number, has no stand-in.
"""

import re
from typing import Final

from pydantic import SecretStr

from gateway.config.problems import KeyPath
from gateway.config.schema_errors import annotation_at, bare_type
from gateway.config.source import StandIn
from gateway.config.urls import HttpUrl, ProxyAddress, WebhookAddress

_WHOLE_URLS: Final = {"state": "redis://{}.invalid/0", "ledger": "sqlite:///{}.db"}


def stand_in(path: KeyPath, name: str, is_first: bool) -> str | None:
    """For the variable `name`, which is not set, in the text at `path`; `is_first`: the text begins with it.

    None where it is neither a secret nor an address.
    """
    annotation = annotation_at(path)
    kind = bare_type(annotation)
    # Told apart by their names: two keys, or two replicas, must not be the same.
    unset = "unset-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if kind in (ProxyAddress, WebhookAddress) or annotation == HttpUrl:
        return f"http://{unset}.invalid" if is_first else f"{unset}.invalid"
    if not (isinstance(kind, type) and issubclass(kind, SecretStr)):
        return None
    if len(path) == 1 and is_first:
        return _WHOLE_URLS[str(path[0])].format(unset)
    return f"{unset}-is-no-secret"  # long enough not to be called short


def stand_in_but_for(*needed: KeyPath) -> StandIn:
    """As `stand_in`, but nothing stands in at the paths in `needed`."""

    def found(path: KeyPath, name: str, is_first: bool) -> str | None:
        return None if path in needed else stand_in(path, name, is_first)

    return found
