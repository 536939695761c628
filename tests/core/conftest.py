"""Property tests of the core: pure functions on shared machines, so nothing is measured against a clock."""

from hypothesis import HealthCheck, settings

settings.register_profile("core", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("core")
