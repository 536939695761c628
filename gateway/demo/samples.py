"""The sample requests of the four features, over the inputs that are shipped beside this file."""

import base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

INPUTS = Path(__file__).parent / "inputs"

# The rule for long contracts begins at 20,000 prompt tokens, counted as four bytes each; most tokenizers make
# fewer of English text, so the document is longer than that.
LONG_CONTRACT_BYTES = 100_000

PERSONAL_DATA = ("accounts.payable@example.com", "DE89 3704 0044 0532 0130 00", "4111 1111 1111 1111")
"""What of the contract must never be seen outside, as it stands in the file."""
UNPUBLISHED = "This quarter's figures are not published yet."
"""Begins the prompt whose client asks for privacy by itself."""
IN_FULL_WIDTH = "ａｃｃｏｕｎｔｓ．ｐａｙａｂｌｅ＠ｅｘａｍｐｌｅ．ｃｏｍ"
"""A mail address as a Japanese keyboard writes it: no plain @ and no ASCII letter."""
SECRETS = (*PERSONAL_DATA, UNPUBLISHED, IN_FULL_WIDTH)

ORDER_STATUS: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_order_status",
        "description": "Where an order is and when it arrives.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "description": "Such as A-1042"}},
            "required": ["order_id"],
            "additionalProperties": False,
        },
    },
}
_STANDSTILL_SCHEMA: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "standstill",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "line_a_hours": {"type": "array", "items": {"type": "integer"}, "minItems": 6, "maxItems": 6},
                "worst_month": {"type": "string"},
            },
            "required": ["line_a_hours", "worst_month"],
            "additionalProperties": False,
        },
    },
}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One request as a client of `feature` sends it, and what the demo says about it.

    `privacy` is the class that the client asks for. `is_refused`: the policy must not let it through.
    """

    feature: str
    title: str
    body: Mapping[str, Any]
    privacy: str | None = None
    is_refused: bool = False

    @property
    def model(self) -> str:
        return str(self.body["model"])


def literature_triage() -> list[Sample]:
    feature = "literature-triage"
    english, japanese = _text("origin-of-species.en.txt"), _text("wagahai-wa-neko-de-aru.ja.txt")
    return [
        _chat(feature, "Darwin, 1859: summarise", "Summarise in three sentences:\n\n" + english),
        _chat(feature, "夏目漱石, 1905: summarise", "次の文章を二文で要約してください。\n\n" + japanese),
        _chat(
            feature,
            "both: which to read first? (stream)",
            f"Which of these two texts should a new editor read first, and why?\n\n{english}\n\n{japanese}",
            stream=True,
        ),
    ]


def chart_reading() -> list[Sample]:
    feature = "chart-reading"
    question = "Which month had the most standstill on line A?"
    return [
        _chat(feature, "PNG chart: which month is worst?", _with_chart(question)),
        _chat(
            feature,
            "PNG chart: the bars as JSON",
            _with_chart("Read the bars of line A as JSON."),
            response_format=_STANDSTILL_SCHEMA,
        ),
        _chat(
            feature,
            "PNG chart, marked confidential",
            _with_chart(f"{UNPUBLISHED} {question}"),
            privacy="confidential",
        ),
    ]


def contract_review() -> list[Sample]:
    feature = "contract-review"
    asked = "Which clauses of this contract are unusual?\n\n" + _text("contract.txt")
    address = f"Is this the right address for invoices? {IN_FULL_WIDTH}"
    return [
        _chat(feature, "contract with personal data", asked),
        _chat(feature, "the same, client asks for gpt-4o", asked, model="gpt-4o", is_refused=True),
        _chat(feature, "mail address in full-width letters", address, max_completion_tokens=30),
        _chat(
            feature,
            "long schedule, no personal data",
            "List every deadline in this schedule.\n\n" + long_contract(),
        ),
    ]


def order_question() -> Sample:
    """The first half of a tool call: the model is to ask for `get_order_status`."""
    return _chat(
        "support-agent",
        "order status: tool call (stream)",
        "What is the order status of A-1042?",
        model="gpt-4o",
        tools=[ORDER_STATUS],
        stream=True,
    )


def order_answer(tool_call: Mapping[str, Any]) -> Sample:
    """The second half: the tool has answered `tool_call`."""
    question = order_question()
    result = '{"order_id": "A-1042", "status": "shipped", "arrives_on": "Thursday"}'
    messages = [
        *question.body["messages"],
        {"role": "assistant", "content": None, "tool_calls": [tool_call]},
        {"role": "tool", "tool_call_id": tool_call["id"], "content": result},
    ]
    body = {**question.body, "messages": messages}
    return Sample(feature=question.feature, title="order status: answer (stream)", body=body)


def support_chats() -> list[Sample]:
    questions = (
        "How do I change my address?",
        "The currency is wrong. Now what?",
        "Do you deliver on Saturdays?",
    )
    return [
        _chat("support-agent", question, question, stream=True, max_completion_tokens=50)
        for question in questions
    ]


def background() -> list[Sample]:
    """What goes on once the show is over: all but the long document, which alone costs more than the rest."""
    contracts = [sample for sample in contract_review() if "long" not in sample.title]
    return [*support_chats(), *literature_triage(), *chart_reading(), *contracts]


@cache
def long_contract() -> str:
    """The schedule of services, position after position."""
    position = _text("contract-annex.txt")
    positions = LONG_CONTRACT_BYTES // len(position) + 1
    return "\n\n".join(position.replace("{number}", str(number + 1)) for number in range(positions))


@cache
def chart_url() -> str:
    """The chart as a data: URL."""
    encoded = base64.b64encode((INPUTS / "standstill-hours.png").read_bytes()).decode("ascii")
    return f"data:image/png;base64,{encoded}"


@cache
def _text(name: str) -> str:
    return (INPUTS / name).read_text(encoding="utf-8").strip()


def _with_chart(question: str) -> list[Mapping[str, Any]]:
    return [
        {"type": "text", "text": question},
        {"type": "image_url", "image_url": {"url": chart_url(), "detail": "high"}},
    ]


def _chat(
    feature: str,
    title: str,
    content: str | list[Mapping[str, Any]],
    *,
    model: str = "auto",
    privacy: str | None = None,
    is_refused: bool = False,
    **options: Any,
) -> Sample:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
    if options.get("stream"):
        body["stream_options"] = {"include_usage": True}
    return Sample(
        feature=feature,
        title=title,
        body={**body, "max_completion_tokens": 60, **options},
        privacy=privacy,
        is_refused=is_refused,
    )
