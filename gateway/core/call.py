"""The facts of one request that routing and metering need, and its body as it goes upstream.

What goes upstream is always re-encoded from the parsed value, so that the gateway and the upstream can never
read two different values for one duplicated key.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from gateway.core.catalog import Api, Capability, Modality
from gateway.core.media import Media

# Bytes of a prompt for each token, before anything was learned: English text and Japanese text in UTF-8
# both come out near four with the o200k and Llama 4 vocabularies.
BYTES_PER_TOKEN = 4

# Bounds of the tags, wherever they come from.
MAX_TAGS = 16
MAX_TAG_LENGTH = 512


class Call(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """Facts of one request. `rest` is the re-encoded body without `model`, `stream_options` and output caps.

    `growth` is by how many bytes `rest` is shorter than another body that may be sent in its place.
    `max_output` is None when the client named no cap. `stream_options` are the client's own, without
    `include_usage`. `prompts` are read each by itself (a list in completions and embeddings); `choices` are
    all that is generated for them. `user` is whom the client says that it acts for.

    More than 14 attributes: one for each member of the body that routing, holding or metering reads.
    """

    api: Api
    model: str
    stream: bool
    include_usage: bool
    stream_options: Mapping[str, Any]
    max_output: int | None
    choices: int
    modalities: frozenset[Modality]
    needs: frozenset[Capability]
    media: Media
    service_tier: str | None
    tags: Mapping[str, str]
    rest: bytes
    user: str | None = None
    prompts: int = 1
    growth: int = 0

    @property
    def text_bytes(self) -> int:
        """Bytes of JSON that are read as text, at most. No tokenizer makes more tokens than bytes."""
        return len(self.rest) - self.media.bytes + self.growth

    @property
    def prompt_tokens(self) -> int:
        """Estimate of the text's tokens, the same for every deployment."""
        return self.text_bytes // BYTES_PER_TOKEN + 1


def encode_call(call: Call, model: str, cap_field: str | None, cap: int, rest: bytes | None = None) -> bytes:
    """The body for one upstream: `rest` with the deployment's model name, output cap and stream options.

    `rest` is what goes out in place of the call's own.
    """
    head: dict[str, Any] = {"model": model}
    if cap_field is not None:
        head[cap_field] = cap
    if call.stream:
        head["stream_options"] = {**call.stream_options, "include_usage": True}
    encoded = orjson.dumps(head)
    rest = call.rest if rest is None else rest
    if len(rest) == 2:
        return encoded
    return encoded[:-1] + b"," + rest[1:]
