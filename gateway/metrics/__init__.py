"""Metrics for Prometheus, budget alerts and logs: counted in plain Python on the request path."""
