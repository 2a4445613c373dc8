"""Flow control: requests wait here, in order and within limits, while the pool is saturated.

policies.py is what a configuration decides, queues.py what waits, control.py who goes next and when,
eviction.py who is stopped for others, tenants.py whose request it is.
"""
