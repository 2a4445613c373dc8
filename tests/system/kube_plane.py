"""The rig's Kubernetes API (bench.rig.kube), and what stays untested without one. ``python -m`` builds it."""

import re
from pathlib import Path

from bench.rig.kube import CLUSTER_WIDE, NEEDED, ControlPlane, is_possible, main, path_of

__all__ = ["CLUSTER_WIDE", "MISSING", "ControlPlane", "is_possible", "mended", "path_of"]

MISSING = (
    f"{NEEDED}: that pools, pods and EndpointSlices are followed, leader election, who may see /metrics,"
    " conformance, the chart and deploy/kubernetes, that an API takes what is compiled, the controller,"
    " epp plan, epp apply, epp lint --cluster and deploy/admission stay untested"
)


def mended(crd: Path, folder: Path) -> Path:
    """As Envoy Gateway v1.8.2 has it: the API refuses every rate limit with v1.8.0 and v1.8.1
    (envoyproxy/gateway#9186), since their largest number is no int32, and says so of nothing else."""
    text = crd.read_text()
    found = re.sub(r"format: int32(\n +maximum: 4294967295)", r"format: int64\1", text)
    if found == text:
        return crd
    path = folder / crd.name
    path.write_text(found)
    return path


if __name__ == "__main__":
    main(MISSING)
