"""What tests of choosing have in common: the plugin types by name, and fleets made of readings."""

import importlib
import pathlib
import random
from collections.abc import Iterable, Mapping

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load
from epp.core.lifecycle import Phase
from epp.core.request import Payload, Request
from epp.core.scoring import Cycle

_SCORERS = pathlib.Path(__file__).parent.parent / "scorers"


def _found(stem: str) -> type:
    name = "".join(part.capitalize() for part in stem.split("_"))
    found: type = getattr(importlib.import_module(f"scorers.{stem}"), name)
    return found


TYPES: Mapping[str, type] = {
    path.stem.replace("_", "-"): _found(path.stem)
    for path in sorted(_SCORERS.glob("*.py"))
    if path.stem != "__init__"
}


def fleet_of(loads: Iterable[Load | Phase | None], *, stale_after: float = 1e9, port: int = 8000) -> Fleet:
    """Endpoints e0, e1, … at 10.0.0.1, 10.0.0.2, …

    A load: it was read at 0. None or READY: it answers and tells no load. PENDING: nobody has looked.
    EJECTED: it takes no connections.
    """
    fleet = Fleet(stale_after=stale_after)
    loads = list(loads)
    fleet.replace(
        (EndpointSpec(name=f"e{i}", ip=f"10.0.0.{i + 1}", port=port) for i in range(len(loads))), 0.0
    )
    for endpoint, load in zip(fleet.endpoints, loads, strict=True):
        match load:
            case Load():
                fleet.reading(endpoint, load, 0.0)
            case Phase.EJECTED:
                fleet.lost(endpoint, 0.0, "gone")
            case Phase.READY | None:
                fleet.answered(endpoint, 0.0)
            case Phase.PENDING:
                pass
    return fleet


def endpoints_of(*loads: Load) -> tuple[Endpoint, ...]:
    return fleet_of(loads).endpoints


def cycle_of(request: Request | None = None, *, seed: int = 0, now: float = 0.0) -> Cycle:
    return Cycle(request or Request(), now=now, chance=random.Random(seed))


def prompt_of(text: str, *, model: str = "m", salt: str = "", **headers: str) -> Request:
    payload = Payload(model=model, prompt=text.encode(), cache_salt=salt)
    return Request(payload=payload, target_model=model, headers=headers)
