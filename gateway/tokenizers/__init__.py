"""Counting the tokens of prompts exactly, where a guess would not do."""
