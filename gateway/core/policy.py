"""What routing depends on: one immutable value for each version of the file."""

import difflib
from collections.abc import Mapping

import msgspec

from gateway.core.catalog import Api, Deployment, Model
from gateway.core.errors import ModelNotFound
from gateway.core.retirement import ever_serving
from gateway.core.tenancy import Principal

# A name that is not known comes from outside, and to compare two takes the product of their lengths.
LONGEST_NAME = 100
MOST_COMPARED = 1000
NEAREST = 3
# Shorter names stand within many others, and say nothing.
SHORTEST_PART = 4


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
        asked = name[:LONGEST_NAME]
        known = [one for one in policy.models if principal.may_use(one)]
        raise ModelNotFound(
            f"The model '{asked}' does not exist or you do not have access to it. {_hint(asked, known)}",
            param="model",
        )
    return model


def tokenizer_of(policy: Policy, model: str, api: Api) -> str | None:
    """The tokenizer by which each deployment reads what is sent to `model` at `api`.

    None where one of them is not known, or where they differ: then the same ids say different things.
    """
    found = policy.models.get(model)
    serving = ever_serving(found.use if found else (), policy.deployments)
    tokenizers = {item.tokenizer for item in serving if api in item.serves}
    return tokenizers.pop() if len(tokenizers) == 1 else None


def _hint(asked: str, known: list[str]) -> str:
    """What to ask for instead, of the models that this client may use."""
    nearest = _nearest(asked, known)
    if nearest:
        return f"Did you mean {' or '.join(repr(name) for name in nearest)}?"
    return "GET /v1/models lists the models of this key."


def _nearest(asked: str, known: list[str]) -> list[str]:
    """The names that are most like `asked`, the likest first: misspelt, or with another beginning or end."""
    by_folded: dict[str, str] = {}
    for name in known[:MOST_COMPARED]:
        by_folded.setdefault(name.lower(), name)
    folded = asked.lower()
    found = difflib.get_close_matches(folded, by_folded, n=NEAREST)
    if len(folded) >= SHORTEST_PART:
        parts = (name for name in by_folded if len(name) >= SHORTEST_PART)
        found += sorted((name for name in parts if name in folded or folded in name), key=len, reverse=True)
    return [by_folded[name] for name in list(dict.fromkeys(found))[:NEAREST]]
