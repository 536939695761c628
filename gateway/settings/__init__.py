"""Floor 4: reads `tollway.yaml` and the environment, and validates it whole."""

from gateway.settings.load import Loaded, load
from gateway.settings.problems import KeyPath, Problem
from gateway.settings.schema import Settings, json_schema

__all__ = ["KeyPath", "Loaded", "Problem", "Settings", "json_schema", "load"]
