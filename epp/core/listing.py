"""Several lists of endpoints as one.

Place:   used by epp.config.cluster and epp.runtime.sources.
Ignores: where a list comes from.
Rule:    every server is there once, and every name.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from epp.core.fleet import EndpointSpec


def named_apart(specs: Iterable[EndpointSpec]) -> Iterator[EndpointSpec]:
    """The same, each with a name of its own: a pod and a machine may be called the same.

    The second of a name is ``name@2``. Its address is no part of it: with a new lease it is still the same.
    """
    taken: set[tuple[str, str]] = set()
    for spec in specs:
        own, number = spec, 1
        while (own.namespace, own.name) in taken:
            number += 1
            own = replace(spec, name=f"{spec.name}@{number}")
        taken.add((own.namespace, own.name))
        yield own


def merge(lists: Iterable[Sequence[EndpointSpec]]) -> tuple[tuple[EndpointSpec, ...], dict[str, str]]:
    """One list of several, and by address who else is there. The first list that has an address counts.

    What one list says twice is its own affair.
    """
    whole: list[EndpointSpec] = []
    twins: dict[str, str] = {}
    for specs in lists:
        taken = {spec.address: spec for spec in whole}
        for spec in specs:
            first = taken.get(spec.address)
            if first is None:
                whole.append(spec)
            else:
                twins[spec.address] = f"{first.namespace}/{first.name} and {spec.namespace}/{spec.name}"
    return tuple(named_apart(whole)), twins
