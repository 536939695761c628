"""What a prompt weighs in tokens, and the few facts about it that decide the answer."""

import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import orjson

from gateway.simulators.media import Size, UnreadableMedia, audio_tokens, image_size
from gateway.simulators.refusals import SimulatedRefusal, invalid
from gateway.simulators.requests import Json, SimulatedCall, parts
from gateway.simulators.tokens import SimulatorTokenizer

_PER_MESSAGE = 3
_PRIMER = 3

ImageRule = Callable[[Size, str, str], int]
"""Tokens of an image from its size, its `detail` and the model."""


class Modalities(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of model makes of a prompt. Both refusals say how that server words them."""

    image_tokens: ImageRule
    text_factor: float
    """o200k_base tokens times this are the model's own text tokens."""
    unreadable_image: Callable[[], SimulatedRefusal]
    refused_part: Callable[[str], SimulatedRefusal | None]
    """The refusal of a content part type, or None when it is accepted."""
    max_images: int


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by modality; `ids` stands for the whole prompt in order, media included, for prefix caching."""

    text_tokens: int
    image_tokens: int
    audio_tokens: int
    ids: "array[int]"
    digest: bytes
    asked: str
    """The last user text."""

    @property
    def tokens(self) -> int:
        return self.text_tokens + self.image_tokens + self.audio_tokens


class PromptReader:
    """Counts prompts for one kind of model."""

    def __init__(self, tokenizer: SimulatorTokenizer, modalities: Modalities) -> None:
        self._tokenizer = tokenizer
        self._modalities = modalities

    def read(self, call: SimulatedCall) -> Prompt:
        """Raises Refused (400) for media that this kind of model does not take or that cannot be read."""
        count = _Count(self._tokenizer, self._modalities, call.model)
        if call.is_chat:
            count.chat(call)
        else:
            for prompt in call.prompts:
                count.text(prompt)
        return count.prompt()


class _Count:
    """The running count of one prompt."""

    def __init__(self, tokenizer: SimulatorTokenizer, modalities: Modalities, model: str) -> None:
        self._tokenizer = tokenizer
        self._modalities = modalities
        self._model = model
        self._ids = array("I")
        self._framing = self._image = self._audio = self._images = 0
        self._asked = ""
        self._digest = hashlib.blake2b(digest_size=16)

    def chat(self, call: SimulatedCall) -> None:
        if call.tools:  # tools come first: they are part of the cached prefix
            self.text(orjson.dumps(call.tools).decode())
        if call.response_format is not None and call.response_format["type"] == "json_schema":
            self.text(orjson.dumps(call.response_format).decode())
        for message in call.messages:
            self._message(message)
        self._framing += _PRIMER

    def text(self, text: str | list[int]) -> None:
        if isinstance(text, str):
            self._ids.extend(self._tokenizer.ids(text))
            self._digest.update(text.encode())
        else:
            self._ids.extend(array("I", (token & 0xFFFFFFFF for token in text)))
            self._digest.update(repr(text).encode())

    def prompt(self) -> Prompt:
        text = len(self._ids) - self._image - self._audio
        return Prompt(
            text_tokens=math.ceil((text + self._framing) * self._modalities.text_factor),
            image_tokens=self._image,
            audio_tokens=self._audio,
            ids=self._ids,
            digest=self._digest.digest(),
            asked=self._asked,
        )

    def _message(self, message: Mapping[str, Any]) -> None:
        self._framing += _PER_MESSAGE
        self.text(message["role"])
        if name := message.get("name"):
            self._framing += 1
            self.text(str(name))
        for call in message.get("tool_calls") or ():
            self.text(orjson.dumps(call.get("function") or {}).decode())
        content = parts(message)
        for part in content:
            self._part(part)
        if message["role"] == "user":
            self._asked = " ".join(_texts(content))

    def _part(self, part: Json) -> None:
        kind = str(part["type"])
        if (refusal := self._modalities.refused_part(kind)) is not None:
            raise refusal
        match kind:
            case "text" | "refusal":
                self.text(str(part.get(kind) or ""))
            case "image_url":
                self._image_part(part)
            case "input_audio":
                value = part.get("input_audio")
                self._audio += self._media(value, audio_tokens, value if isinstance(value, dict) else {})
            case _:  # a file: as much as one page, an estimate
                self._image += self._media(
                    part, self._modalities.image_tokens, (1024, 1024), "high", self._model
                )

    def _image_part(self, part: Json) -> None:
        self._images += 1
        if self._images > self._modalities.max_images:
            raise invalid(f"At most {self._modalities.max_images} image(s) may be provided in one prompt.")
        image = part.get("image_url")
        value = image if isinstance(image, dict) else {"url": image}
        size = self._media_size(str(value.get("url") or ""))
        detail = str(value.get("detail") or "auto")
        self._image += self._media(value.get("url"), self._modalities.image_tokens, size, detail, self._model)

    def _media_size(self, url: str) -> Size:
        try:
            return image_size(url)
        except UnreadableMedia as exc:
            raise self._modalities.unreadable_image() from exc

    def _media(self, source: Any, count: Callable[..., int], *values: Any) -> int:
        """Tokens of a media part; stand-ins for them join the ids, the same for the same source."""
        try:
            tokens = count(*values)
        except UnreadableMedia as exc:
            raise invalid(f"Invalid media in message content: {exc}.", code="invalid_media") from exc
        mark = hashlib.blake2b(orjson.dumps(source), digest_size=4).digest()
        self._digest.update(mark)
        self._ids.extend(array("I", mark) * tokens)
        return tokens


def _texts(content: Iterable[Json]) -> Iterable[str]:
    return (str(part.get("text") or "") for part in content if part.get("type") == "text")
