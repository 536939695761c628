"""What routing depends on: one immutable value for each version of the file."""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.core.catalog import Api, Deployment, Model
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


def tokenizer_of(policy: Policy, model: str, api: Api) -> str | None:
    """The tokenizer by which each deployment reads what is sent to `model` at `api`.

    None where one of them is not known, or where they differ: then the same ids say different things.
    """
    found = policy.models.get(model)
    tokenizers = {
        item.tokenizer for item in _all_serving(policy, found.use if found else ()) if api in item.serves
    }
    return tokenizers.pop() if len(tokenizers) == 1 else None


def _all_serving(policy: Policy, use: Sequence[Deployment]) -> list[Deployment]:
    """Deployments of a model, and those that take their place some day."""
    serving = {item.name: item for item in use}
    waiting = list(use)
    while waiting:
        for name in waiting.pop().successors:
            if name not in serving and name in policy.deployments:
                serving[name] = policy.deployments[name]
                waiting.append(serving[name])
    return list(serving.values())
