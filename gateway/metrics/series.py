"""What is counted between two scrapes: plain numbers, changed on the event loop's thread only.

Units: money in integer nano-USD, tokens in tokens, durations in seconds.
"""

from gateway.core.answer import Usage
from gateway.core.histogram import Histogram

REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
INTER_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
OVERHEAD_SECONDS = (
    0.0001,
    0.0002,
    0.0003,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
)


class AttemptSeries:
    """All attempts with the same deployment, feature, team and outcome. `input_*` leave cached tokens out."""

    __slots__ = (
        "attempts",
        "cached_audio",
        "cached_image",
        "cached_text",
        "cost_nano",
        "counterfactual_nano",
        "input_audio",
        "input_image",
        "input_text",
        "output_audio",
        "output_text",
        "reasoning",
    )

    def __init__(self) -> None:
        self.attempts = 0
        self.cost_nano = 0
        self.counterfactual_nano: dict[str, int] = {}
        self.input_text = self.input_image = self.input_audio = 0
        self.cached_text = self.cached_image = self.cached_audio = 0
        self.output_text = self.output_audio = self.reasoning = 0

    def add_rare(self, usage: Usage) -> None:
        """Tokens that most attempts have none of; text that was not cached is counted by the caller.

        Cached tokens are taken to be text first, then image, then audio, in the order in which they are
        priced: an upstream does not tell.
        """
        image, audio, cached = usage.input_image, usage.input_audio, usage.input_cached
        if cached:
            of_text = min(cached, usage.input_text)
            of_image = min(cached - of_text, image)
            of_audio = min(cached - of_text - of_image, audio)
            self.input_text -= of_text
            self.cached_text += of_text
            self.cached_image += of_image
            self.cached_audio += of_audio
            image -= of_image
            audio -= of_audio
        self.input_image += image
        self.input_audio += audio
        self.output_audio += usage.output_audio
        self.reasoning += usage.output_reasoning

    def tokens(self) -> tuple[tuple[str, str, int], ...]:
        """(type, modality, tokens), disjoint, so that they add up to all tokens."""
        return (
            ("input", "text", self.input_text),
            ("input", "image", self.input_image),
            ("input", "audio", self.input_audio),
            ("cached_input", "text", self.cached_text),
            ("cached_input", "image", self.cached_image),
            ("cached_input", "audio", self.cached_audio),
            ("output", "text", self.output_text),
            ("output", "audio", self.output_audio),
            ("reasoning", "text", self.reasoning),
        )


class RequestSeries:
    """All requests with the same labels. The histograms are shared with other series of the deployment."""

    __slots__ = ("duration", "first_token", "inter_token", "requests")

    def __init__(self, duration: Histogram, first_token: Histogram, inter_token: Histogram) -> None:
        self.requests = 0
        self.duration = duration
        self.first_token = first_token
        self.inter_token = inter_token
