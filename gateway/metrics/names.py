"""Label values: only names that the configuration holds, so that no client can make series without end."""

import msgspec

OTHER = "other"  # a name that is not configured
NONE = "none"  # there is no such thing: no key was recognised, no model found, nothing dispatched


class LabelNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names that may stand as label values."""

    models: frozenset[str] = frozenset()
    deployments: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()

    def model(self, name: str | None) -> str:
        return _known(name, self.models)

    def deployment(self, name: str) -> str:
        return _known(name, self.deployments)

    def feature(self, name: str | None) -> str:
        return _known(name, self.features)

    def team(self, name: str | None) -> str:
        return _known(name, self.teams)


def _known(name: str | None, names: frozenset[str]) -> str:
    if name is None:
        return NONE
    return name if name in names else OTHER
