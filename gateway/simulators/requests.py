"""A generation request, checked as far as OpenAI's own first checks go, with OpenAI's messages and codes."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
import orjson

from gateway.simulators.refusals import SimulatedRefusal, invalid

Json = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_UNPARSABLE = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
    "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
)
_NUMBERS: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
)
_INTEGERS: tuple[tuple[str, int, int], ...] = (
    ("n", 1, 128),
    ("max_tokens", 1, 1 << 31),
    ("max_completion_tokens", 1, 1 << 31),
    ("top_logprobs", 0, 20),
    ("min_tokens", 0, 1 << 31),
)


class SimulatedEndpoint(StrEnum):
    """The endpoints that generate text."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"


class SimulatedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One checked request. `top_logprobs` is None unless log probabilities were asked for.

    Many attributes: one for each parameter that an answer depends on.
    """

    endpoint: SimulatedEndpoint
    model: str
    messages: tuple[Json, ...] = ()
    prompts: tuple[str | list[int], ...] = ()
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    choices_per_prompt: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    echo: bool = False
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    tools: tuple[Json, ...] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    response_format: Json | None = None
    service_tier: str | None = None

    @property
    def is_chat(self) -> bool:
        return self.endpoint is SimulatedEndpoint.CHAT


def parsed(body: bytes) -> Json:
    """The JSON object of a body. Raises Refused (400)."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise invalid(_UNPARSABLE) from exc
    if not isinstance(document, dict):
        raise invalid(_UNPARSABLE)
    return document


def read_call(endpoint: SimulatedEndpoint, document: Json) -> SimulatedCall:
    """The call a document asks for. Raises Refused (400) with `param` and `code` as OpenAI sets them."""
    _check_scalars(document)
    options = _stream_options(document)
    chat = endpoint is SimulatedEndpoint.CHAT
    return SimulatedCall(
        endpoint=endpoint,
        model=model_name(document),
        messages=_messages(document) if chat else (),
        prompts=() if chat else _prompts(document),
        stream=bool(document.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
        choices_per_prompt=document.get("n") or 1,
        max_tokens=_max_tokens(document, chat=chat),
        min_tokens=document.get("min_tokens") or 0,
        ignore_eos=bool(document.get("ignore_eos")),
        echo=bool(document.get("echo")) and not chat,
        stop=_stop(document),
        top_logprobs=_top_logprobs(document, chat=chat),
        tools=_tools(document),
        tool_choice=document.get("tool_choice"),
        parallel_tool_calls=document.get("parallel_tool_calls") is not False,
        response_format=_response_format(document),
        service_tier=document.get("service_tier"),
    )


def model_name(document: Json) -> str:
    model = document.get("model")
    if model is None or model == "":
        raise invalid("you must provide a model parameter")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    return model


def wrong_type(param: str, expected: str, value: Any) -> SimulatedRefusal:
    message = f"Invalid type for '{param}': expected {expected}, but got {_type_name(value)} instead."
    return invalid(message, param, "invalid_type")


def missing(param: str) -> SimulatedRefusal:
    return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {
        str: "a string",
        int: "an integer",
        float: "a decimal number",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "an unknown value")


def _check_scalars(document: Json) -> None:
    for name in ("stream", "echo", "parallel_tool_calls"):
        if (value := document.get(name)) is not None and not isinstance(value, bool):
            raise wrong_type(name, "a boolean", value)
    for name, least, most in _NUMBERS:
        _check_number(name, document.get(name), least, most)
    for name, first, last in _INTEGERS:
        value = document.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise wrong_type(name, "an integer", value)
        _check_bounds(name, value, first, last, "integer")


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise wrong_type(name, "a decimal", value)
    _check_bounds(name, value, least, most, "decimal")


def _check_bounds(name: str, value: Any, least: float, most: float, noun: str) -> None:
    if value is None or least <= value <= most:
        return
    side, sign, bound = ("above maximum", "<=", most) if value > most else ("below minimum", ">=", least)
    message = (
        f"Invalid '{name}': {noun} {side} value. Expected a value {sign} {bound}, but got {value} instead."
    )
    raise invalid(message, name, f"{noun}_{side.removesuffix('imum').replace(' ', '_')}_value")


def _stream_options(document: Json) -> Json:
    options = document.get("stream_options")
    if options is None:
        return {}
    if not document.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise invalid(message, "stream_options")
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object", options)
    return options


def _messages(document: Json) -> tuple[Json, ...]:
    messages = document.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead."
        )
        raise invalid(message, "messages", "empty_array")
    for index, message in enumerate(messages):
        _check_message(f"messages[{index}]", message)
    return tuple(messages)


def _check_message(at: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise wrong_type(at, "an object", message)
    if "role" not in message:
        raise missing(f"{at}.role")
    if message["role"] not in _ROLES:
        expected = ", ".join(f"'{role}'" for role in _ROLES)
        text = f"Invalid value: '{message['role']}'. Supported values are: {expected}."
        raise invalid(text, f"{at}.role", "invalid_value")
    content = message.get("content")
    if content is None and message["role"] != "assistant":
        raise invalid(f"Invalid value for 'content': expected a string, got null. ({at})", f"{at}.content")
    if content is not None and not isinstance(content, str | list):
        raise wrong_type(f"{at}.content", "one of a string or array of objects", content)
    _objects(message, "tool_calls", f"{at}.tool_calls")
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            raise wrong_type(f"{at}.content[{place}]", "an object", part)
        if "type" not in part:
            raise missing(f"{at}.content[{place}].type")


def _prompts(document: Json) -> tuple[str | list[int], ...]:
    prompt = document.get("prompt", "")
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and prompt:
        if all(type(item) is int for item in prompt):
            return (prompt,)
        if all(isinstance(item, str) or _is_ids(item) for item in prompt):
            return tuple(prompt)
    raise wrong_type("prompt", "a string, array of strings, or array of token ids", prompt)


def _is_ids(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and all(type(token) is int for token in item)


def _max_tokens(document: Json, *, chat: bool) -> int | None:
    limit = document.get("max_completion_tokens") or document.get("max_tokens")
    if chat or limit is not None:
        return limit
    return 16  # the documented default of /v1/completions


def _stop(document: Json) -> tuple[str, ...]:
    stop = document.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise wrong_type("stop", "a string or array of strings", stop)
    return tuple(item for item in stops if item)


def _top_logprobs(document: Json, *, chat: bool) -> int | None:
    if not chat:  # the legacy endpoint gives the number itself
        logprobs = document.get("logprobs")
        return logprobs if type(logprobs) is int else None
    if document.get("logprobs"):
        return document.get("top_logprobs") or 0
    if document.get("top_logprobs"):
        message = "Invalid value for 'top_logprobs': must be used with 'logprobs' set to true."
        raise invalid(message, "top_logprobs")
    return None


def _tools(document: Json) -> tuple[Json, ...]:
    tools = _objects(document, "tools", "tools")
    for index, tool in enumerate(tools):
        function = tool.get("function")
        if tool.get("type") == "function" and not (isinstance(function, dict) and function.get("name")):
            raise missing(f"tools[{index}].function.name")
    return tools


def _objects(document: Json, name: str, at: str) -> tuple[Json, ...]:
    items = document.get(name)
    if items is None:
        return ()
    if not isinstance(items, list):
        raise wrong_type(at, "an array of objects", items)
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise wrong_type(f"{at}[{index}]", "an object", item)
    return tuple(items)


def _response_format(document: Json) -> Json | None:
    wanted = document.get("response_format")
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise wrong_type("response_format", "an object", wanted)
    if wanted.get("type") not in ("text", "json_object", "json_schema"):
        message = "Supported values are: 'json_object', 'json_schema', and 'text'."
        raise invalid(
            f"Invalid value: '{wanted.get('type')}'. {message}", "response_format.type", "invalid_value"
        )
    if wanted["type"] == "json_schema" and not isinstance(wanted.get("json_schema"), dict):
        raise missing("response_format.json_schema")
    return wanted


def parts(message: Mapping[str, Any]) -> Sequence[Json]:
    """Content parts of a message; a plain string is one text part."""
    content = message.get("content")
    if isinstance(content, str):
        return ({"type": "text", "text": content},)
    return content or ()
