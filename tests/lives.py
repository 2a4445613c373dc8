"""Endpoints at any point of their lives, as of ``NOW``: brought there by signals, as real ones are."""

from collections.abc import Mapping, Sequence

from epp.core.fleet import UNKNOWN, Endpoint, EndpointSpec, Load, Reservation
from epp.core.lifecycle import HealthSettings, Lifecycle, Phase, Signal

NOW = 100.0
SETTINGS = HealthSettings()

_S = Signal
LIVES: Mapping[str, tuple[Phase, Sequence[tuple[float, Signal]]]] = {
    "ready": (Phase.READY, [(0.0, _S.FOUND)]),
    "pressured": (Phase.PRESSURED, [(0.0, _S.FOUND), (NOW, _S.PRESSED)]),
    "suspect": (Phase.SUSPECT, [(0.0, _S.FOUND), (NOW, _S.SILENT)]),
    "warming": (Phase.WARMING, [(NOW, _S.ANSWERED)]),
    "probing": (Phase.PROBING, [(NOW - 0.5, _S.REFUSED), (NOW, _S.ANSWERED)]),
    "silent": (Phase.EJECTED, [(0.0, _S.FOUND), (NOW, _S.SILENT), (NOW, _S.SILENT)]),
    "untried": (Phase.PENDING, []),
    "refusing": (Phase.EJECTED, [(NOW, _S.REFUSED)]),
    "held": (Phase.PENDING, [(NOW, _S.HELD)]),
    "waiting": (Phase.EJECTED, [(0.0, _S.FOUND), (NOW, _S.REFUSED), (NOW, _S.ANSWERED)]),
    "failing": (Phase.EJECTED, [(0.0, _S.FOUND), (NOW, _S.FAILED), (NOW, _S.FAILED), (NOW, _S.ANSWERED)]),
    "loading": (Phase.LOADING, [(NOW, _S.LOADING)]),
    "draining": (Phase.DRAINING, [(0.0, _S.FOUND), (NOW, _S.QUITTING)]),
    "leaving": (Phase.DRAINING, [(NOW, _S.LEAVING)]),
    "gone": (Phase.GONE, [(NOW, _S.REMOVED)]),
}


def living(
    how: str, *, name: str = "", tier: int = 0, load: Load = UNKNOWN, in_flight: int = 0, port: int = 8000
) -> Endpoint:
    """One endpoint, with so many requests of ours."""
    phase, signals = LIVES[how]
    life = Lifecycle(SETTINGS, 0.0)
    for at, signal in signals:
        life.advance(at)
        life.receive(signal, at)
    if how == "leaving":
        life.leaving = "deleted"
    assert life.phase is phase
    endpoint = Endpoint(EndpointSpec(name=name or how, ip="10.0.0.1", port=port, tier=tier), life)
    endpoint.load = load
    if life.allowance is not None:
        endpoint.on_occupied = lambda endpoint: None
    for _ in range(in_flight):
        Reservation(endpoint, 0)
    return endpoint
