"""Endpoints from Kubernetes: a pool's pods, EndpointSlices and what LLMKube says of them, followed.

discovery.py joins what following.py keeps up to date, each kind with the rules of store.py, over api.py.
What the objects mean is in epp.config.cluster.
"""
