"""Bodies of requests, read for decisions and encoded again for the upstream."""

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.errors import InvalidRequest
from gateway.core.parse import parse_call
from tests.fuzz.target import Target

MAX_MESSAGES = 8

TOKENS = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"1e400", b"-0", b"1.5", b"NaN"),
    *(b"18446744073709551616", b"-9223372036854775809", b'"\\ud800"', b'"\\u0000"', b"\xff", b"\xef\xbb\xbf"),
    *(b'"model":"gpt-4o"', b'"messages":[]', b'"stream":true', b'"stream_options":{"include_usage":true}'),
    *(b'"max_tokens":', b'"n":', b'"best_of":', b'"tools":', b'"metadata":{"a":"b"}', b'"response_format":'),
    *(b'"content":', b'{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}', b'"role":'),
    *(b'"input":', b'"prompt":', b'"logit_bias":', b'"user":', b'"modalities":["audio"]', b'"input_audio":'),
)


def _read(api: Api, data: bytes) -> tuple[Call, Any] | None:
    try:
        return parse_call(api, data, MAX_MESSAGES)
    except InvalidRequest as error:
        assert 400 <= error.status < 500
        return None


def check(data: bytes, _cuts: Sequence[int]) -> None:
    """Only InvalidRequest; and what is forwarded is read like what came, by us and by another reader."""
    for api in Api:
        found = _read(api, data)
        if found is None:
            continue
        call, _ = found
        rest = orjson.loads(call.rest)
        assert isinstance(rest, dict)
        assert not {"model", "stream_options", "max_tokens", "max_completion_tokens"} & rest.keys() or (
            api is Api.EMBEDDINGS
        )
        again = _read(api, orjson.dumps({**rest, "model": call.model}))
        assert again is not None, "what is forwarded would be refused"
        forwarded = again[0]
        assert (forwarded.needs, forwarded.modalities, forwarded.choices, forwarded.prompts) == (
            call.needs,
            call.modalities,
            call.choices,
            call.prompts,
        )
        assert orjson.loads(forwarded.rest) == rest
        assert (forwarded.model, forwarded.stream, forwarded.tags) == (call.model, call.stream, call.tags)


REQUEST_BODY = Target("request_body", check, TOKENS, (20_000, 120, 0))
