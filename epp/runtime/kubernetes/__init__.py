"""What Kubernetes says: endpoints, which pools there are, who leads and who may look.

api.py is the API; following.py keeps one kind of objects as it has them, by the rules of store.py.
namespace.py follows what the pools of a namespace share, discovery.py makes one pool's endpoints of that
and of its own objects, references.py finds out which pools are to be served. lease.py is the leader
election, access.py asks who may read the pages. What the objects mean is in epp.config.cluster.
"""
