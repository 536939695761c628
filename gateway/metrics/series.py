"""What is counted between two scrapes: plain numbers, changed on the event loop's thread only.

Units: money in integer nano-USD, tokens in tokens, durations in seconds.
"""

from gateway.core.histogram import Histogram
from gateway.core.usage import CACHE_WRITE, CACHED, MODALITIES, REASONING, Usage, is_input, is_output

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
    """All attempts with the same deployment, feature, team and outcome. `units` are tokens beside text."""

    __slots__ = (
        "attempts",
        "cost_nano",
        "counterfactual_nano",
        "flags",
        "input_text",
        "output_text",
        "units",
    )

    def __init__(self) -> None:
        self.attempts = 0
        self.cost_nano = 0
        self.counterfactual_nano: dict[str, int] = {}
        self.input_text = self.output_text = 0
        self.units: dict[str, int] = {}
        self.flags: dict[str, int] = {}

    def add_others(self, usage: Usage) -> None:
        """Tokens that most attempts have none of; text is counted by the caller."""
        for unit, amount in usage.others:
            self.units[unit] = self.units.get(unit, 0) + amount

    def add_flags(self, flags: str) -> None:
        """An attempt with these flags, with commas."""
        for flag in flags.split(","):
            self.flags[flag] = self.flags.get(flag, 0) + 1

    def tokens(self) -> list[tuple[str, str, int]]:
        """(type, modality, tokens), disjoint, so that they add up to all tokens."""
        found = {("input", "text"): self.input_text, ("output", "text"): self.output_text}
        for unit, amount in self.units.items():
            if (key := _labels(unit)) is not None:
                found[key] = found.get(key, 0) + amount
        return [(*key, amount) for key, amount in found.items()]


def _labels(unit: str) -> tuple[str, str] | None:
    """Type and modality of a unit of tokens; None for other units. Names from outside are no labels."""
    if unit.startswith(CACHE_WRITE):
        return "cache_write", "audio" if unit.endswith("audio") else "text"
    if unit == REASONING:
        return "reasoning", "text"
    if unit.endswith("_prediction"):
        return "output", "text"
    modality = unit.partition("_")[2]
    modality = modality if modality in MODALITIES else "other"
    if unit.startswith(CACHED):
        return "cached_input", modality
    if is_input(unit):
        return "input", modality
    return ("output", modality) if is_output(unit) else None


class RequestSeries:
    """All requests with the same labels. The histograms are shared with other series of the deployment."""

    __slots__ = ("duration", "first_token", "inter_token", "requests")

    def __init__(self, duration: Histogram, first_token: Histogram, inter_token: Histogram) -> None:
        self.requests = 0
        self.duration = duration
        self.first_token = first_token
        self.inter_token = inter_token
