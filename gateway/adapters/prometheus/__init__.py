"""Metrics for Prometheus: counted in plain Python on the request path, put into words at a scrape."""

from gateway.adapters.prometheus.across import FamilySamples
from gateway.adapters.prometheus.names import Names
from gateway.adapters.prometheus.scrape import Sources
from gateway.adapters.prometheus.telemetry import CONTENT_TYPE, PrometheusTelemetry

__all__ = ["CONTENT_TYPE", "FamilySamples", "Names", "PrometheusTelemetry", "Sources"]
