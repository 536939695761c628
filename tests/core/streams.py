"""Golden event streams: each event as it comes from the upstream, and as a client without usage sees it."""

from typing import NamedTuple

USAGE = b'{"prompt_tokens":11,"completion_tokens":4,"total_tokens":15}'
OPENAI = b'{"id":"chatcmpl-1","model":"gpt-4o-2024-11-20","service_tier":"default",'
VLLM = b'{"id":"chatcmpl-2","object":"chat.completion.chunk","created":1,"model":"llama-4-scout",'


class Event(NamedTuple):
    """One event on the wire, what is `shown` when usage is hidden (None: nothing), and its pieces of text."""

    wire: bytes
    shown: bytes | None
    texts: int = 0


class Golden(NamedTuple):
    name: str
    events: tuple[Event, ...]
    output_tokens: int | None
    finish_reason: str | None
    done: bool
    failure: bool = False

    @property
    def wire(self) -> bytes:
        return b"".join(event.wire for event in self.events)

    @property
    def shown(self) -> bytes:
        """What a client sees that did not ask for usage."""
        return b"".join(event.shown for event in self.events if event.shown is not None)

    @property
    def asked(self) -> bytes:
        """What a client sees that asked for usage: everything but the upstream's comments."""
        return b"".join(event.wire for event in self.events if not event.wire.startswith(b":"))

    @property
    def texts(self) -> int:
        return sum(event.texts for event in self.events)


def same(wire: bytes, texts: int = 0) -> Event:
    return Event(wire, wire, texts)


def data(json: bytes, texts: int = 0, end: bytes = b"\n\n") -> Event:
    return same(b"data: " + json + end, texts)


def with_null(before: bytes, after: bytes, texts: int = 0) -> Event:
    """An event with `"usage":null` between `before` and `after`."""
    return Event(
        b"data: " + before + b',"usage":null' + after + b"\n\n", b"data: " + before + after + b"\n\n", texts
    )


def comment(text: bytes) -> Event:
    return Event(b": " + text + b"\n\n", None)


def gone(json: bytes, end: bytes = b"\n\n") -> Event:
    return Event(b"data: " + json + end, None)


def delta(content: bytes, head: bytes = VLLM) -> bytes:
    return head + b'"choices":[{"index":0,"delta":{"content":' + content + b'},"finish_reason":null}]'


DONE = data(b"[DONE]")
ROLE = b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]'
STOP = b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]'

OPENAI_STREAM = Golden(
    "openai: usage null, then a usage chunk without choices",
    (
        with_null(OPENAI + ROLE, b',"obfuscation":"x"}'),
        with_null(delta(b'"Hel"', OPENAI), b"}", 1),
        with_null(delta(b'"lo"', OPENAI), b"}", 1),
        with_null(delta(b'", \\"usage\\":null"', OPENAI), b"}", 1),
        with_null(OPENAI + STOP, b"}"),
        gone(OPENAI + b'"choices":[],"usage":' + USAGE + b"}"),
        DONE,
    ),
    4,
    "stop",
    True,
)
SPACED_STREAM = Golden(
    "spaces between the members",
    (
        Event(
            b'data: {"model": "m", "choices": [{"delta": {"content": ""}}], "usage": null}\n\n',
            b'data: {"model": "m", "choices": [{"delta": {"content": ""}}]}\n\n',
        ),
        Event(
            b'data: {"usage" : null, "choices": [{"delta": {"content": "Hi"}}]}\n\n',
            b'data: { "choices": [{"delta": {"content": "Hi"}}]}\n\n',
            1,
        ),
        data(b'{"choices": [{"delta": {"content": ""}}]}'),
        data(b'{"choices": [{"delta": {}, "finish_reason": "length"}]}'),
        gone(b'{"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 4}}'),
        DONE,
    ),
    4,
    "length",
    True,
)
VLLM_STREAM = Golden(
    "vllm: nothing about usage before the last chunk",
    (
        data(VLLM + ROLE + b"}"),
        data(delta(b'"Hel"') + b"}", 1),
        data(delta(b'"lo"') + b"}", 1),
        data(VLLM + STOP + b"}"),
        gone(VLLM + b'"choices":[],"usage":' + USAGE + b"}"),
        DONE,
    ),
    4,
    "stop",
    True,
)
CALL = b'"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,'
TOOLS_STREAM = Golden(
    "tool calls, whose arguments look like events",
    (
        data(VLLM + ROLE + b"}"),
        data(VLLM + CALL + b'"id":"c1","type":"function","function":{"name":"find","arguments":""}}]}}]}'),
        data(VLLM + CALL + b'"function":{"arguments":"{\\"usage\\":null,"}}]}}]}', 1),
        data(VLLM + CALL + b'"function":{"arguments":"\\"content\\":\\"[DONE]\\"}"}}]}}]}', 1),
        data(VLLM + b'"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}'),
        gone(VLLM + b'"choices":[],"usage":' + USAGE + b"}"),
        DONE,
    ),
    4,
    "tool_calls",
    True,
)
CRLF_STREAM = Golden(
    "lines that end in CRLF",
    (
        data(VLLM + ROLE + b"}", end=b"\r\n\r\n"),
        data(delta(b'"Hi\\n\\n"') + b"}", 1, end=b"\r\n\r\n"),
        Event(
            b"data: " + delta(b'"a"') + b',"usage":null}\r\n\r\n', b"data: " + delta(b'"a"') + b"}\r\n\r\n", 1
        ),
        data(VLLM + STOP + b"}", end=b"\r\n\r\n"),
        gone(VLLM + b'"choices":[],"usage":' + USAGE + b"}", end=b"\r\n\r\n"),
        data(b"[DONE]", end=b"\r\n\r\n"),
    ),
    4,
    "stop",
    True,
)
COMMENTS_STREAM = Golden(
    "comments, event names, no space after the colon, and data over two lines",
    (
        comment(b"connected"),
        data(VLLM + ROLE + b"}"),
        comment(b"keep-alive"),
        same(b'event: message\ndata:{"choices":[{"delta":{"content":"a"}}]}\n\n', 1),
        comment(b"keep-alive"),
        data(delta(b'"b"') + b"}", 1),
        comment(b"ping"),
        same(b'data: {"choices":\ndata: [{"delta":{"content":"c"}}]}\n\n', 1),
        data(b'{"choices":[{"delta":{}}]}'),
        data(b"not json at all"),
        data(VLLM + STOP + b"}"),
        gone(b'{"choices":[],"usage":' + USAGE + b"}"),
        comment(b"bye"),
        DONE,
    ),
    4,
    "stop",
    True,
)


def counted(tokens: int) -> bytes:
    return (
        b'{"prompt_tokens":11,"total_tokens":1,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":0}}'
        % (tokens)
    )


CONTINUOUS_STREAM = Golden(
    "usage in every chunk, wherever it stands",
    (
        Event(
            b"data: " + VLLM + ROLE + b',"usage":' + counted(0) + b"}\n\n", b"data: " + VLLM + ROLE + b"}\n\n"
        ),
        Event(
            b"data: " + delta(b'"a"') + b',"usage":' + counted(1) + b"}\n\n",
            b"data: " + delta(b'"a"') + b"}\n\n",
            1,
        ),
        Event(
            b'data: {"usage":' + counted(2) + b',"choices":[{"delta":{"content":"b"}}]}\n\n',
            b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n',
            1,
        ),
        Event(
            b'data: {"id":"x","usage":' + counted(3) + b', "choices":[{"delta":{"content":"c"}}]}\n\n',
            b'data: {"id":"x", "choices":[{"delta":{"content":"c"}}]}\n\n',
            1,
        ),
        Event(
            b"data: " + VLLM + STOP + b',"usage":' + counted(4) + b"}\n\n", b"data: " + VLLM + STOP + b"}\n\n"
        ),
        gone(VLLM + b'"choices":[],"usage":' + counted(4) + b"}"),
        DONE,
    ),
    4,
    "stop",
    True,
)
ENDLESS_STREAM = Golden(
    "no [DONE] at the end",
    (
        data(VLLM + ROLE + b"}"),
        data(delta(b'"a"') + b"}", 1),
        data(VLLM + STOP + b"}"),
        gone(VLLM + b'"choices":[],"usage":' + USAGE + b"}"),
    ),
    4,
    "stop",
    False,
)
COMPLETIONS_STREAM = Golden(
    "completions: text, two choices in one event, and an empty piece",
    (
        data(b'{"id":"cmpl-1","choices":[{"index":0,"text":"a","finish_reason":null}]}', 1),
        data(b'{"id":"cmpl-1","choices":[{"index":0,"text":"b"},{"index":1,"text":"c"}]}', 2),
        data(b'{"id":"cmpl-1","choices":[{"index":0,"text":""},{"index":1,"text":"d"}]}', 1),
        data(b'{"id":"cmpl-1","choices":[{"index":0,"text":"","finish_reason":"length"}]}'),
        gone(b'{"id":"cmpl-1","choices":[],"usage":' + USAGE + b"}"),
        DONE,
    ),
    4,
    "length",
    True,
)
UNICODE_STREAM = Golden(
    "text in many scripts, escaped and not",
    (
        data(VLLM + ROLE + b"}"),
        data(delta('"こんにちは 🙂‍↔️"'.encode()) + b"}", 1),
        data(delta(b'"\\ud83d\\ude42 \\u0040 \\\\n"') + b"}", 1),
        data(delta('"\u2028\u0085\x7f"'.encode()) + b"}", 1),
        with_null(delta('"données"'.encode()), b"}", 1),
        data(VLLM + STOP + b"}"),
        gone(VLLM + b'"choices":[],"usage":' + USAGE + b"}"),
        DONE,
    ),
    4,
    "stop",
    True,
)
REASONING_STREAM = Golden(
    "reasoning comes before the answer",
    (
        data(VLLM + ROLE + b"}"),
        data(VLLM + b'"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}', 1),
        data(VLLM + b'"choices":[{"index":0,"delta":{"reasoning_content":""}}]}'),
        data(delta(b'"42"') + b"}", 1),
        data(VLLM + STOP + b"}"),
        DONE,
    ),
    None,
    "stop",
    True,
)
ERROR_STREAM = Golden(
    "an error event",
    (
        data(VLLM + ROLE + b"}"),
        data(delta(b'"a"') + b"}", 1),
        gone(b'{"error":{"message":"CUDA error","type":"InternalServerError","code":500}}'),
        gone(delta(b'"b"') + b"}"),
        gone(b"[DONE]"),
    ),
    None,
    None,
    False,
    failure=True,
)
ABORT_STREAM = Golden(
    "an engine that aborts",
    (
        data(VLLM + ROLE + b"}"),
        data(delta(b'"a"') + b"}", 1),
        gone(VLLM + b'"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"abort"}]}'),
        gone(VLLM + b'"choices":[],"usage":' + USAGE + b"}"),
        gone(b"[DONE]"),
    ),
    None,
    "abort",
    False,
    failure=True,
)

GOLDEN = (
    OPENAI_STREAM,
    SPACED_STREAM,
    VLLM_STREAM,
    TOOLS_STREAM,
    CRLF_STREAM,
    COMMENTS_STREAM,
    CONTINUOUS_STREAM,
    ENDLESS_STREAM,
    COMPLETIONS_STREAM,
    UNICODE_STREAM,
    REASONING_STREAM,
    ERROR_STREAM,
    ABORT_STREAM,
)
