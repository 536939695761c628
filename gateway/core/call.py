"""The facts of one request that routing and metering need, and its body as it goes upstream.

What goes upstream is always re-encoded from the parsed value, so that the gateway and the upstream can never
read two different values for one duplicated key.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.catalog import Api, Capability, Modality
from gateway.core.media import Media
from gateway.core.text_kinds import TextSize

# Bytes of a prompt for each token, before anything was learned: English text and Japanese text in UTF-8
# both come out near four with the o200k and Llama 4 vocabularies.
BYTES_PER_TOKEN = 4

# The member of `stream_options` that vLLM has beside OpenAI's: usage so far, with each chunk.
CONTINUOUS_USAGE = "continuous_usage_stats"

# Bounds of the tags, wherever they come from.
MAX_TAGS = 16
MAX_TAG_LENGTH = 512


class Call(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Facts of one request. `rest` is the re-encoded body without `model`, `stream_options` and output caps.

    `text_bytes` are those bytes of JSON that are read as text, at most: no tokenizer makes more tokens than
    bytes. They are those of the larger body, where another one may be sent in place of `rest`.
    `max_output` is None when the client named no cap. `stream_options` are the client's own, without
    `include_usage`. `prompts` are read each by itself (a list in completions and embeddings); `choices` are
    all that is generated for them. `user` is whom the client says that it acts for. `members` are those that
    dialects treat differently (`dialects.outgoing.members_of`, and DEVELOPER). `size` is that of the text,
    where it was found beside the event loop.

    Many attributes: one for each member of the body that routing, holding or metering reads.
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
    text_bytes: int
    user: str | None = None
    prompts: int = 1
    members: frozenset[str] = frozenset()
    size: TextSize | None = None

    @property
    def wants_continuous_usage(self) -> bool:
        """The client asked for the usage so far in each chunk; as servers have it, only beside the usage."""
        return self.include_usage and self.stream_options.get(CONTINUOUS_USAGE) is True
