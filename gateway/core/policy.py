"""What routing depends on: one immutable value for each version of the file."""

from collections.abc import Mapping

import msgspec

from gateway.core.catalog import Deployment, Model
from gateway.core.errors import ModelNotFound
from gateway.core.tenancy import Principal


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that routing depends on; one immutable value for each version of the file."""

    version: str
    classes: tuple[str, ...]
    default_class: str
    zones: Mapping[str, frozenset[str]]
    models: Mapping[str, Model]
    deployments: Mapping[str, Deployment]
    zone_lines: Mapping[str, int] = {}

    def most_sensitive(self, *classes: str) -> str:
        """The most sensitive of `classes`. Raises ValueError for an unknown class."""
        return self.classes[max(self.classes.index(name) for name in classes)]


def model_for(policy: Policy, principal: Principal, name: str) -> Model:
    """Raises ModelNotFound, in the same words for a model that is unknown and one that is not allowed."""
    model = policy.models.get(name)
    allowed = principal.models
    if model is None or (allowed is not None and name not in allowed):
        raise ModelNotFound(
            f"The model '{name[:100]}' does not exist or you do not have access to it.", param="model"
        )
    return model
