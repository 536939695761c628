"""Detectors: what they find, what they leave, and how long they take on hostile text."""
