"""API groups, which the command line and the objects share; the one need not wait for the other."""

POOL_GROUP = "inference.networking.k8s.io"
"""Of InferencePools since v1."""
OLD_POOL_GROUP = "inference.networking.x-k8s.io"
"""Of those before, v1alpha2; and of objectives and rewrites, before they went to NEW_GROUP."""
NEW_GROUP = "llm-d.ai"
