"""What servers say when they refuse, in the words of a dozen of them, and what is made of it."""

import pytest

from gateway.dialects.refusals import refused_field, smaller_cap

ADDED = ("max_tokens", "stream_options")
OTHERS = ("max_completion_tokens", "stream_options")

UNKNOWN_FIELD = [
    (
        "max_tokens",
        ADDED,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
        "instead.",
        "max_tokens",
    ),
    ("max_completion_tokens", OTHERS, "Unrecognized request argument supplied: max_completion_tokens", None),
    (
        "stream_options",
        ADDED,
        '{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],'
        '"msg":"Extra inputs are not permitted","input":{"include_usage":true}}]},"type":"invalid_request"}',
        None,
    ),
    ("stream_options", ADDED, "stream_options: Extra inputs are not permitted", None),
    ("stream_options", ADDED, "Unknown field: stream_options", None),
    ("stream_options", ADDED, "property 'stream_options' is unsupported", None),
    ("max_tokens", ADDED, "This endpoint does not support max_tokens.", None),
    ("max_tokens", ADDED, "Additional properties are not allowed ('max_tokens' was unexpected)", None),
    ("stream_options", ADDED, "This field is not allowed.", "stream_options.include_usage"),
]


@pytest.mark.parametrize(("field", "added", "text", "param"), UNKNOWN_FIELD)
def test_a_field_that_the_server_does_not_read(
    field: str, added: tuple[str, ...], text: str, param: str | None
) -> None:
    assert refused_field(text, param, added) == field


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("max_tokens is too large: 20000. This model supports at most 16384 completion tokens", "max_tokens"),
        ("Invalid 'max_tokens': integer below minimum value. Expected a value >= 1", "max_tokens"),
        ("max_tokens must be at least 1, got 0.", "max_tokens"),
        ("Unsupported parameter: 'temperature' is not supported with this model.", "temperature"),
        ("Unsupported parameter: 'max_tokens_per_turn' is not supported.", None),
        ("'max_tokens' or 'max_completion_tokens' is too large: 16384. This model's maximum "
         "context length is 32768 tokens and your request has 18012 input tokens.", None),
        ("The model `gpt-9` does not exist", "model"),
        ("", None),
    ],
)  # fmt: skip
def test_what_is_said_of_a_value_or_of_another_field_is_no_refusal_of_ours(
    text: str, param: str | None
) -> None:
    assert refused_field(text, param, ADDED) is None


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "This model's maximum context length is 32768 tokens. However, you requested 16384 output "
            "tokens and "
            "your prompt contains 18012 input tokens, for a total of 34396 tokens.",
            32768 - 18012,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 16384. This model's maximum context "
            "length is "
            "32768 tokens and your request has 18012 input tokens (16384 > 32768 - 18012).",
            32768 - 18012,
        ),
        (
            "This model's maximum context length is 128000 tokens. However, you requested 130000 tokens "
            "(113000 in the messages, 616 in the functions, and 16384 in the completion).",
            128000 - 113000 - 616,
        ),
        ("input length and `max_tokens` exceed context limit: 190000 + 16384 > 200000", 10000),
        (
            "Requested token count exceeds the model's maximum context length of 8192 tokens. You "
            "requested a "
            "total of 20384 tokens: 4000 tokens from the input messages and 16384 tokens for the completion.",
            4192,
        ),
        (
            "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 3000 `inputs` tokens and 16384 "
            "`max_new_tokens`",
            1096,
        ),
        # Servers that stop counting say a bound and not a number.
        (
            "This model's maximum context length is 32768 tokens. However, you requested 16384 output "
            "tokens and "
            "your prompt contains at least 16385 input tokens, for a total of at least 32769 tokens.",
            4096,
        ),
        (
            "This model's maximum context length is 8192 tokens. However, you requested 8000 output "
            "tokens and "
            "your prompt contains 78627 characters (more than 14592 characters, which is the upper bound "
            "for 192 "
            "input tokens).",
            1024,
        ),
        ("max_tokens=16384 cannot be greater than max_model_len=max_total_tokens=4096", 512),
        ("the request exceeds the available context size. try increasing the context size", 4096),
    ],
)
def test_a_cap_that_does_not_fit_is_cut_by_the_servers_numbers(text: str, left: int) -> None:
    assert smaller_cap(text, None, 16384) == left


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Unsupported value: 'temperature'", None),
        ("maximum context length is 1000 tokens ... your prompt contains 1000 input tokens", None),
        ("maximum context length is 1000 tokens ... your prompt contains 4000 input tokens", None),
    ],
)
def test_no_cap_helps_where_the_prompt_alone_is_too_long_or_nothing_is_said_of_it(
    text: str, code: str | None
) -> None:
    assert smaller_cap(text, code, 16384) is None


def test_the_code_says_it_where_the_words_do_not() -> None:
    assert smaller_cap("Too much.", "context_length_exceeded", 800) == 200
    assert smaller_cap("Too much.", "context_length_exceeded", 3) is None
