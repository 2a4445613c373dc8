"""Several lists of endpoints as one.

Place:   used by epp.config.cluster, epp.runtime.sources and epp.core.members.
Ignores: where a list comes from.
Rule:    every server is there once, and every name.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from epp.core.fleet import EndpointSpec


def free_name(spec: EndpointSpec, taken: Container[tuple[str, str]]) -> str:
    """Its name, or if that is taken in its namespace ``name@2`` and so on.

    Its address is no part of it: with a new lease it is still the same.
    """
    name, number = spec.name, 1
    while (spec.namespace, name) in taken:
        number += 1
        name = f"{spec.name}@{number}"
    return name


def named_apart(specs: Iterable[EndpointSpec]) -> Iterator[EndpointSpec]:
    """The same, each with a name of its own: a pod and a machine may be called the same."""
    taken: set[tuple[str, str]] = set()
    for spec in specs:
        name = free_name(spec, taken)
        taken.add((spec.namespace, name))
        yield spec if name == spec.name else replace(spec, name=name)


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
