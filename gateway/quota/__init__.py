"""Limits and budgets: holds before a request is sent, and what was really spent after it."""
