"""What vLLM refuses in a generation request beyond its types: fields, tools, sizes."""

from collections.abc import Iterable

from gateway.simulators.refusals import SimulatedRefusal, invalid
from gateway.simulators.requests import Json, SimulatedCall


def check_fields(call: SimulatedCall, document: Json, refused: Iterable[str]) -> None:
    """Raises Refused. vLLM ignores fields that it does not know; stricter servers refuse some (`refused`)."""
    for name in refused:
        if document.get(name) is not None:
            raise SimulatedRefusal(422, _pydantic("extra_forbidden", name, "Extra inputs are not permitted"))
    for index, tool in enumerate(call.tools):
        if tool.get("type", "function") != "function":
            where = f"tools.{index}.type"
            raise invalid(_pydantic("literal_error", where, "Input should be 'function'"))
    if priority := document.get("priority"):
        raise invalid(f"Got priority {priority} but Priority scheduling is not enabled.")


def too_long(prompt: int, wanted: int, context: int, *, stops_counting: bool) -> SimulatedRefusal:
    """The refusal of a prompt that leaves no room for `wanted` tokens of output."""
    # The tokenizer is told to stop at what the cap leaves, and one token more shows that it was reached.
    seen = min(prompt, max(context - wanted, 0) + 1) if stops_counting else prompt
    at_least = "at least " if seen < prompt else ""
    return invalid(
        f"This model's maximum context length is {context} tokens. However, you requested {wanted} output "
        f"tokens and your prompt contains {at_least}{seen} input tokens, for a total of "
        f"{at_least}{seen + wanted} tokens. Please reduce the length of the input prompt or the number of "
        "requested output tokens.",
        "input_tokens",
    )


def _pydantic(kind: str, where: str, message: str) -> str:
    location = ", ".join(repr(step) for step in ("body", *where.split(".")))
    return f"[{{'type': '{kind}', 'loc': ({location}), 'msg': '{message}', 'input': {{}}}}]"
