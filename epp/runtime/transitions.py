"""Tells people of every change of an endpoint's phase: a log line, a counter.

Place:   told by epp.core.fleet; its counter stands beside epp.runtime.metrics' page.
Ignores: why a phase changes (epp.core.lifecycle) and what follows from it.
"""

import logging
from collections.abc import Iterable

from epp.core.fleet import Endpoint
from epp.core.lifecycle import Change, Phase
from epp.runtime.metrics import Family, Numbers, Values

logger = logging.getLogger("epp.lifecycle")

_BAD_NEWS = frozenset({Phase.SUSPECT, Phase.EJECTED})


class Transitions:
    """Counts and logs."""

    def __init__(self) -> None:
        self._counts: Numbers = {}

    def changed(self, endpoint: Endpoint, change: Change) -> None:
        """``endpoint`` is in another phase."""
        key = change.before.value, change.after.value, change.signal.name.lower()
        self._counts[key] = self._counts.get(key, 0.0) + 1
        logger.log(
            logging.WARNING if change.after in _BAD_NEWS else logging.INFO,
            "endpoint is %s",
            change.after.value,
            extra={
                "fields": {
                    "endpoint": endpoint.name,
                    "address": endpoint.address,
                    "was": change.before.value,
                    "reason": change.reason,
                }
            },
        )

    def families(self) -> Iterable[Family]:
        help_text = "Changes of an endpoint's phase, by what was seen."
        labels = ("from", "to", "reason")
        yield Values("fleet_epp_endpoint_transitions_total", "counter", help_text, labels, self._counts)
