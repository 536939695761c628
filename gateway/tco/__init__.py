"""Hosted models against own GPUs for the traffic of the past: what it cost, and what it would have."""
