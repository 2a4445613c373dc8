"""The rig's Kubernetes API (bench.rig.kube), and what stays untested without one. ``python -m`` builds it."""

from bench.rig.kube import CLUSTER_WIDE, NEEDED, ControlPlane, is_possible, main, path_of

__all__ = ["CLUSTER_WIDE", "MISSING", "ControlPlane", "is_possible", "path_of"]

MISSING = (
    f"{NEEDED}: that pods, EndpointSlices and LLMKube services are followed, and deploy/kubernetes,"
    " stay untested"
)

if __name__ == "__main__":
    main(MISSING)
