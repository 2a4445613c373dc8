"""What the command line means for how the process runs.

Place:   asked by epp.commands.serve.
Ignores: how flags are written.
"""

from dataclasses import dataclass, replace
from typing import Literal, cast

from epp.config.flags import ServeFlags
from scorers.metrics_data_source import MetricsDataSource

_A_DAY = 86_400.0
_LAST_CALL = 1.0


def metrics_source(flags: ServeFlags, source: MetricsDataSource) -> MetricsDataSource:
    """``source`` as it is configured, and what the command line says of the rest."""
    scheme, path = flags.model_server_metrics_scheme, flags.model_server_metrics_path
    given = None if scheme == "http" else cast("Literal['https']", scheme)
    return replace(
        source,
        scheme=source.scheme or given,
        path=source.path or (None if path == "/metrics" else path),
        port=source.port or flags.model_server_metrics_port or None,
        insecure_skip_verify=source.insecure_skip_verify
        and flags.model_server_metrics_https_insecure_skip_verify,
    )


@dataclass(frozen=True, slots=True)
class Drain:
    """What happens from SIGTERM on [s]."""

    serve_for: float
    """Requests are still taken, though the process is not ready: gateways need time to hear of it."""
    grace: float
    """How long open ones may go on after that."""
    last_call: float
    """When, after that, those are refused that still wait for a server."""


def drain(flags: ServeFlags, *, in_kubernetes: bool) -> Drain:
    """In Kubernetes gateways hear that the process is not ready, and the kubelet ends what lasts too long.

    Elsewhere nobody tells them: they should find the port closed, and a successor on it.
    """
    if in_kubernetes:
        return Drain(serve_for=flags.drain_timeout, grace=_A_DAY, last_call=0.0)
    grace = flags.drain_timeout
    return Drain(serve_for=0.0, grace=grace, last_call=max(grace - _LAST_CALL, grace / 2))
