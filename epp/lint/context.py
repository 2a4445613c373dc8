"""What is known beside the objects: where they are from, and which gateway is to serve them."""

from dataclasses import dataclass

LATEST = (1, 1)


@dataclass(frozen=True, slots=True)
class Context:
    """``is_live``: the objects are all that a cluster has, but for kinds in ``unread``; else of files.

    ``namespaces``: that were read of the cluster; empty: all. ``version``: of Envoy AI Gateway.
    ``namespace``: of objects in files that name none.
    """

    is_live: bool = False
    version: tuple[int, int] = LATEST
    namespace: str = "default"
    unread: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
