"""Limits and budgets shared in Redis or Valkey."""
