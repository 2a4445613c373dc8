"""``endpoint-health``: when an endpoint counts as dead, and how it comes back."""

from dataclasses import asdict, dataclass
from typing import ClassVar

from epp.core.scoring import HealthSettings, Kind, Seconds

SHORTEST, LONGEST = 0.001, 3600.0
MOST_FAILURES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHealth:
    """Thresholds of all endpoints' lifecycles; at most one such plugin, and it need not be named anywhere.

    Bounds: durations from 1ms to 1h. A shorter silence finds a hanging server sooner and takes a busy one for
            a hanging one sooner, too.
    """

    silence: Seconds = 0.5
    """A look that is not answered for so long makes an endpoint suspect; twice what vLLM's page took here
    while its loop stalled (0.24 s)."""
    second_silence: Seconds = 0.7
    """The second look, at once and on a new connection, ejects it when it is not answered for so long either:
    with `silence` 1.2 s from hanging to being left alone."""
    first_token: Seconds = 30.0
    """A request that waits so long for its first token counts as failed, where others take less; the longest
    prompts of slow machines stay below."""
    failures: int = 2
    """So many requests that fail one after another eject it, 1 to 100: one may be the request's own fault."""
    suspicion: Seconds = 5.0
    """A suspect of which nothing else is heard counts as ready again after so long."""
    back_off: Seconds = 0.5
    """An ejected endpoint gets nothing for so long, although it may answer again; doubles with each ejection:
    one that comes and goes gets less and less."""
    back_off_most: Seconds = 30.0
    """The longest back-off: what was repaired is in use again after half a minute, whatever it did before."""
    stable: Seconds = 30.0
    """After so long in service the next back-off is a short one again."""
    probation: Seconds = 0.5
    """One that answers again gets one request at a time until one was served, or for so long if none is."""
    warm_up: Seconds = 5.0
    """After that it may have 2 requests at once, doubling to 64 within this time: a server that comes back
    looks idle, and everybody would be sent there."""
    overload: Seconds = 2.0
    """One that refused a request because it is full counts as pressured for so long: queues of seconds drain
    in that time."""
    draining: Seconds = 30.0
    """One that said itself that it shuts down and is still there is tried again after so long, as long as
    Kubernetes gives a pod to end."""

    kind: ClassVar[Kind] = Kind.HEALTH

    def __post_init__(self) -> None:
        for written, value in (
            ("silence", self.silence),
            ("secondSilence", self.second_silence),
            ("firstToken", self.first_token),
            ("suspicion", self.suspicion),
            ("backOff", self.back_off),
            ("backOffMost", self.back_off_most),
            ("stable", self.stable),
            ("probation", self.probation),
            ("warmUp", self.warm_up),
            ("overload", self.overload),
            ("draining", self.draining),
        ):
            if not SHORTEST <= value <= LONGEST:
                raise ValueError(f"{written}: must be from 1ms to 1h, got {value:g}s")
        if not 1 <= self.failures <= MOST_FAILURES:
            raise ValueError(f"failures: must be from 1 to {MOST_FAILURES}, got {self.failures}")
        if self.back_off_most < self.back_off:
            raise ValueError(
                f"backOffMost: must be at least backOff ({self.back_off:g}s), got {self.back_off_most:g}s"
            )

    def settings(self) -> HealthSettings:
        """The same for the core."""
        return HealthSettings(**asdict(self))
