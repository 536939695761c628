"""A value that is valid against a JSON schema, the same each time: as a model answers.

Covers what OpenAI's structured outputs and usual tool definitions use. `pattern` is met from a list of common
forms only; `not`, `if` and `patternProperties` are ignored.
"""

import math
import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

_WORDS = ("harbor", "lantern", "meadow", "copper", "signal", "orchard", "ledger", "summit")
_DEEP = 5
_FORMATS = {
    "date-time": "2026-11-03T09:30:00Z",
    "date": "2026-11-03",
    "time": "09:30:00Z",
    "duration": "PT15M",
    "email": "reader@example.com",
    "hostname": "www.example.com",
    "ipv4": "192.0.2.10",
    "ipv6": "2001:db8::10",
    "uuid": "6f1c2b34-5d6e-4f70-8a91-b2c3d4e5f601",
    "uri": "https://example.com/item",
    "uri-reference": "/item",
}
# fmt: off
_PATTERN_FORMS = (
    "A1", "AB", "ABC", "ABC-123", "abc", "a", "1", "12", "123", "1234", "12345", "123-45-6789",
    "555-123-4567", "+15551234567", "2026-11-03", "09:30", "#a1b2c3", "1.0.0", "a_b", "a-b",
)
# fmt: on


def sample(schema: Any, random: Random) -> Any:
    """A JSON value for `schema`. An unsatisfiable schema gets a value near to it."""
    return _Sampler(schema, random).value(schema, 0)


class _Sampler:
    def __init__(self, root: Any, random: Random) -> None:
        self._root = root
        self._random = random

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping):  # true, or nonsense: anything goes
            return _WORDS[0]
        schema = self._resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._random.choice(schema["enum"])
        return self._typed(_type_of(schema, depth), schema, depth)

    def _resolved(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        """`schema` with its $ref followed, one branch of anyOf or oneOf taken and allOf merged in."""
        for _ in range(32):  # a chain of references longer than this is a loop
            if "$ref" in schema:
                schema = _joined(_without(schema, "$ref"), self._target(str(schema["$ref"])))
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                schema = _joined(_without(schema, "anyOf", "oneOf"), self._branch(branches, depth))
            elif schema.get("allOf"):
                first, *rest = schema["allOf"]
                schema = _joined({**_without(schema, "allOf"), **({"allOf": rest} if rest else {})}, first)
            else:
                return schema
        return {}

    def _branch(self, branches: Sequence[Any], depth: int) -> Any:
        """Any branch; deep down the plainest one, so that a recursive schema ends."""
        return min(branches, key=_plainness) if depth >= _DEEP else branches[0]

    def _target(self, reference: str) -> Any:
        node = self._root
        for step in reference.lstrip("#").strip("/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if name and isinstance(node, Mapping):
                node = node.get(name, {})
        return node

    def _typed(self, kind: str, schema: Mapping[str, Any], depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer" | "number":
                return _number(schema, self._random, whole=kind == "integer")
            case "boolean":
                return self._random.random() < 0.5
            case "null":
                return None
            case _:
                return self._string(schema)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = list(schema.get("required") or ())
        names = required if depth >= _DEEP else [*properties, *(n for n in required if n not in properties)]
        made = {name: self.value(properties.get(name, {"type": "string"}), depth + 1) for name in names}
        for extra in range(int(schema.get("minProperties", 0)) - len(made)):
            made[f"field_{extra + 1}"] = self.value(schema.get("additionalProperties", {}), depth + 1)
        return made

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        fixed = [self.value(item, depth + 1) for item in schema.get("prefixItems") or ()]
        least, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", 1_000_000))
        usual = 0 if depth >= _DEEP else 2
        wanted = min(max(least, usual), most)
        items = schema.get("items", {})
        while items is not False and len(fixed) < wanted:
            item = self.value(items, depth + 1)
            if schema.get("uniqueItems") and item in fixed:
                item = self._another(items, fixed, depth)
                if item in fixed:
                    break
            fixed.append(item)
        return fixed[:most]

    def _another(self, items: Any, taken: list[Any], depth: int) -> Any:
        for _ in range(64):
            item = self.value(items, depth + 1)
            if isinstance(item, str) and item in taken and not isinstance(items.get("enum"), list):
                item = f"{item}{len(taken)}"
            if item not in taken:
                break
        return item

    def _string(self, schema: Mapping[str, Any]) -> str:
        least, most = int(schema.get("minLength", 0)), int(schema.get("maxLength", 1_000_000))
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        if pattern := schema.get("pattern"):
            fitting = (
                form for form in _PATTERN_FORMS if least <= len(form) <= most and _matches(pattern, form)
            )
            return next(fitting, _WORDS[0])
        word = self._random.choice(_WORDS)
        while len(word) < least:
            word += f" {self._random.choice(_WORDS)}"
        return word[:most]


def _without(schema: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name not in names}


def _joined(left: Mapping[str, Any], right: Any) -> dict[str, Any]:
    """Both schemas at once; properties and required names add up, else the left one wins."""
    if not isinstance(right, Mapping):
        return dict(left)
    joined = {**right, **left}
    if "properties" in left and "properties" in right:
        joined["properties"] = {**right["properties"], **left["properties"]}
    if "required" in left and "required" in right:
        joined["required"] = list(dict.fromkeys([*left["required"], *right["required"]]))
    return joined


def _plainness(schema: Any) -> int:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    order = ("null", "boolean", "integer", "number", "string", "array", "object")
    return order.index(kind) if isinstance(kind, str) and kind in order else len(order)


def _type_of(schema: Mapping[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        solid = [name for name in kind if name != "null"]
        return "null" if "null" in kind and (depth >= _DEEP or not solid) else str(solid[0])
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "additionalProperties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "number" if "minimum" in schema or "maximum" in schema else "string"


def _number(schema: Mapping[str, Any], random: Random, *, whole: bool) -> float:
    step = schema.get("multipleOf") or 1
    least, most = _bounds(schema, step if whole or "multipleOf" in schema else 0.001)
    first, last = math.ceil(least / step), math.floor(most / step)
    if first > last:  # no multiple of one between the bounds: 0.2 .. 0.8
        return (least + most) / 2
    chosen = random.randint(first, min(last, first + 100)) * step
    return int(chosen) if whole else chosen


def _bounds(schema: Mapping[str, Any], gap: float) -> tuple[float, float]:
    """Inclusive bounds. An open side is 100 from the other; exclusive bounds move by `gap`."""
    least = schema.get("minimum")
    if (above := schema.get("exclusiveMinimum")) is not None:
        least = max(above + gap, above + gap if least is None else least)
    most = schema.get("maximum")
    if (below := schema.get("exclusiveMaximum")) is not None:
        most = min(below - gap, below - gap if most is None else most)
    if least is None:
        least = 1 if most is None or most >= 1 else most - 100
    return least, least + 100 if most is None else most


def _matches(pattern: str, form: str) -> bool:
    try:
        return re.search(pattern, form) is not None
    except re.error:
        return False
