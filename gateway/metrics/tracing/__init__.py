"""OpenTelemetry: a span for each request and each attempt, sent to a collector by OTLP.

But for `settings`, nothing here is imported unless `telemetry.traces` is set.
"""
