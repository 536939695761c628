"""OpenTelemetry: a span for each request and each attempt, sent to a collector by OTLP.

Nothing here is imported unless `telemetry.traces` is set.
"""
