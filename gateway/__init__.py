"""Tollway: an OpenAI-compatible LLM gateway that routes by privacy, modality and cost."""

__version__ = "0.1.0"
