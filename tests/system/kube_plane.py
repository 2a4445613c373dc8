"""The rig's Kubernetes API (bench.rig.kube), and what stays untested without one. ``python -m`` builds it."""

from bench.rig.kube import CLUSTER_WIDE, NEEDED, ControlPlane, is_possible, main, path_of

__all__ = ["CLUSTER_WIDE", "MISSING", "ControlPlane", "is_possible", "path_of"]

MISSING = (
    f"{NEEDED}: that pools, pods and EndpointSlices are followed, leader election, who may see /metrics,"
    " conformance, the chart and deploy/kubernetes stay untested"
)

if __name__ == "__main__":
    main(MISSING)
