"""Reads `tollway.yaml` and the environment, validates it whole, and builds the values of the rooms below."""
