"""What the recogniser is, and how long it may take."""

import json
import sys

import msgspec

WORKER = "gateway.privacy.worker"


class RecognizerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`find` are entity types, `model` is a spaCy pipeline or `blank`, `min_score` is from 0 to 1.

    `deadline_seconds` is for one text, waiting included; `queue` is how many may be with the process at once.
    `command` is run in place of the built-in recogniser.
    """

    find: tuple[str, ...]
    language: str = "en"
    model: str = "en_core_web_sm"
    min_score: float = 0.5
    deadline_seconds: float = 0.3
    queue: int = 64
    command: tuple[str, ...] | None = None

    def arguments(self) -> list[str]:
        """The program and its arguments."""
        if self.command is not None:
            return list(self.command)
        options = {
            "find": self.find,
            "language": self.language,
            "model": self.model,
            "min_score": self.min_score,
        }
        return [sys.executable, "-m", WORKER, json.dumps(options)]
