"""How a route's requests are tried: timeouts, attempts, health; and the BackendTrafficPolicy that says so.

Place:   backends.py says how each rule is tried, routes.py puts rules of one Traffic together.
Rule:    a route has exactly one such policy: of two, the younger counts for nothing, so that retries and
         budgets are in one object. Rules that are to be tried differently are in different routes.
Source:  LLMKube's router-proxy: each backend once, the next at a status of 500 or more, a broken connection
         or a timeout; a backend that failed rests 15 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from epp.compiler.durations import duration
from epp.compiler.emission import Emitted, Object, made
from epp.compiler.findings import Origin
from epp.compiler.intent import DEFAULT_TIMEOUT, Rule

BETWEEN_ATTEMPTS = 1.0
"""[s] Envoy waits at most 250 ms before a retry; what is left is for the connection."""

PLENTY = 100_000
"""Connections and requests of one backend at a time. Envoy's own 1,024 would be 503 for a busy fleet, and the
servers' queues are what is to limit it."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """``timeout`` [s]: of one attempt. ``is_picked``: a pool's picker chooses, which also knows who is well.

    ``is_ordered``: backends are tried in order. ``health_path``: that all of them answer; empty: none is.
    """

    timeout: float
    attempts: int
    is_picked: bool = False
    is_ordered: bool = False
    health_path: str = ""

    @property
    def longest(self) -> float:
        """[s] Until the last attempt has had its time: the route's timeout, which counts streams too."""
        return self.timeout * self.attempts + BETWEEN_ATTEMPTS * (self.attempts - 1)

    def joined(self, other: "Traffic") -> "Traffic":
        """One that is enough for both."""
        return replace(
            self,
            timeout=max(self.timeout, other.timeout),
            attempts=max(self.attempts, other.attempts),
            is_picked=self.is_picked and other.is_picked,
            is_ordered=self.is_ordered or other.is_ordered,
            health_path=self.health_path if self.health_path == other.health_path else "",
        )


def timeout_of(rule: Rule) -> float:
    """[s] Of one attempt. Where backends differ the longest: a route's attempts share one."""
    if rule.timeout is not None:
        return rule.timeout
    each = (DEFAULT_TIMEOUT if one.timeout is None else one.timeout for one in rule.backends)
    return max(each, default=DEFAULT_TIMEOUT)


def picked(rule: Rule) -> Traffic:
    """Of a rule whose pool's picker chooses. The second attempt goes to the same server, for a connection
    that it closed while it was at rest; a server that died is the picker's to know.
    """
    return Traffic(timeout_of(rule), 2, is_picked=True)


def policy(
    namespace: str,
    name: str,
    *,
    routes: Sequence[str],
    traffic: Traffic,
    longest: float,
    limits: Sequence[Object],
    sources: Sequence[Origin],
) -> Emitted:
    """Of the HTTPRoutes ``routes``, which have the names of their AIGatewayRoutes. ``longest`` [s]: of a
    rule.
    """
    spec: dict[str, Any] = {
        "targetRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": route} for route in routes
        ],
        # the listener's limit for a stream at rest is 5 minutes, and a long prompt is read without a byte
        "timeout": {"tcp": {"connectTimeout": "2s"}, "http": {"streamIdleTimeout": duration(longest)}},
        "tcpKeepalive": {"probes": 3, "idleTime": "10s", "interval": "5s"},
        "circuitBreaker": {
            "maxConnections": PLENTY,
            "maxParallelRequests": PLENTY,
            "maxParallelRetries": PLENTY,
            "maxPendingRequests": PLENTY,
        },
    }
    if traffic.attempts > 1:
        spec["retry"] = _retry(traffic)
    if not traffic.is_picked:
        spec["healthCheck"] = _health(traffic)
    if limits:
        spec["rateLimit"] = {"type": "Global", "global": {"rules": list(limits)}}
    return made(
        "gateway.envoyproxy.io/v1alpha1", "BackendTrafficPolicy", namespace, name, *sources, spec=spec
    )


def _retry(traffic: Traffic) -> Object:
    retry: Object = {"numRetries": traffic.attempts - 1, "perRetry": {"timeout": duration(traffic.timeout)}}
    if traffic.is_picked:  # only what no server has seen: the picker is not asked again
        retry["retryOn"] = {"triggers": ["connect-failure", "refused-stream", "reset-before-request"]}
        return retry
    if traffic.is_ordered:
        retry["numAttemptsPerPriority"] = 1
    # 5xx is every status from 500 on and every attempt without an answer: broken, reset, too late
    retry["retryOn"] = {"triggers": ["5xx", "connect-failure", "refused-stream", "reset"]}
    return retry


def _health(traffic: Traffic) -> Object:
    health: Object = {
        "panicThreshold": 0,  # else dead servers are asked as soon as half of them are
        "passive": {
            "baseEjectionTime": "15s",
            "consecutive5XxErrors": 3,
            "consecutiveGatewayErrors": 3,
            "interval": "2s",
            "maxEjectionPercent": 100,
        },
    }
    if traffic.health_path:
        health["active"] = {
            "type": "HTTP",
            "interval": "2s",
            "timeout": "1s",
            "unhealthyThreshold": 2,
            "healthyThreshold": 1,
            "http": {"path": traffic.health_path, "expectedStatuses": [200]},
        }
    return health
