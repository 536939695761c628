"""Decisions explained, tested, proved and rolled out."""
