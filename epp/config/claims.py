"""Who held an address: two machines that take one endpoint from each other.

Place:   asked by epp.runtime.kubernetes with every list that epp.config.cluster has made.
Ignores: why an address changes, and whether anybody answers there.
Rule:    it only tells; the endpoint goes where the last word says.
"""

from collections.abc import Iterable

from epp.core.fleet import EndpointSpec

CLAIM_HOLDS = 300.0
"""[s] An address that comes back within this time was not left, but taken."""


class Claims:
    """Who held an endpoint's address lately: two that take it from each other are two servers.

    One agent with a new address moves an endpoint once; two agents that think the same service theirs
    move it to and fro, every 30 s.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], dict[str, float]] = {}
        self._contested: dict[tuple[str, str], tuple[str, float]] = {}

    def look(self, specs: Iterable[EndpointSpec], now: float) -> tuple[str, ...]:
        """What to say of ``specs`` at ``now`` [s]."""
        held: dict[tuple[str, str], dict[str, float]] = {}
        for spec in specs:
            if not spec.identity:
                continue
            key = spec.namespace, spec.name
            before = self._held.get(key, {})
            lately = {address: at for address, at in before.items() if now - at < CLAIM_HOLDS}
            last = next(reversed(before), spec.address)
            if spec.address != last:
                if spec.address in lately:
                    self._contested[key] = f"{last} and {spec.address}", now
                lately[last] = now  # it was held until now
            lately.pop(spec.address, None)  # what is held now comes last
            held[key] = {**lately, spec.address: now}
        self._held = held
        self._contested = {
            key: (pair, at)
            for key, (pair, at) in self._contested.items()
            if key in held and now - at < CLAIM_HOLDS
        }
        return tuple(
            f"EndpointSlice of {name}: {pair} claim it in turn: let one agent serve it"
            " (--inference-service-allowlist)"
            for (_, name), (pair, _) in self._contested.items()
        )
