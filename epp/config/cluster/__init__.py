"""Kubernetes objects of one pool to what the picker goes by, without a cluster.

objects.py is what is read of each kind; endpoints.py makes the list of endpoints, rules.py what objectives
and rewrites say of requests. All are functions of the objects as they are now, and of the time.
"""
