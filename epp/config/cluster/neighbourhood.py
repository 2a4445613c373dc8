"""What is odd about a pool itself, and between it and the others of its namespace.

Place:   called by endpoints.translate.
Rule:    only what is so now is told: two selectors that could select one pod are nobody's business until
         there is such a pod.
"""

from collections.abc import Iterator, Mapping

from epp.config.cluster.objects import Cluster, Members


def findings(cluster: Cluster, pool: Members) -> Iterator[str]:
    """What should be corrected, each with its remedy; the pool serves all the same."""
    where = f"InferencePool {pool.name}"
    if not pool.selector and not pool.slices:
        yield f"{where}: its selector is empty, so that no pod belongs to it: name their labels"
    twice = sorted({port for port in pool.ports if pool.ports.count(port) > 1})
    if twice:
        yield f"{where}: target port {twice[0]} is there twice: it counts once"
    if not cluster.has_picker_service and pool.picker is not None:
        yield (
            f"{where}: there is no Service {pool.picker.name}, which it names as its picker: gateways do not"
            " find the picker: create it or correct the pool"
        )
    for other in sorted(cluster.neighbours, key=lambda one: one.name):
        shared = sorted(
            pod.metadata.name
            for pod in (cluster.pods if _may_meet(pool.labels, other.labels) else ())
            if _selects(other.labels, pod.metadata.labels or {})
        )
        if shared:
            more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
            yield (
                f"{where}: pod {shared[0]}{more} belong{'' if more else 's'} to InferencePool {other.name} as"
                " well, whose picker does not see what is sent there from here: make the selectors disjoint"
            )


def _may_meet(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a pod could be selected by both; nearly never, and then no pod need be looked at."""
    return bool(other) and all(one.get(key, value) == value for key, value in other.items())


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())
