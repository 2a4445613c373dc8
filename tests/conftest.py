"""What holds for every test."""

from hypothesis import HealthCheck, settings

# Tests run beside other work on small machines: how long an example takes says nothing there.
settings.register_profile("fleet-epp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fleet-epp")
