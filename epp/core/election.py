"""Who of several replicas leads: one candidate's view of a Kubernetes Lease, without I/O.

Place:   fed by epp.runtime.kubernetes.lease, which reads and writes the Lease.
Ignores: the API, what a leader does.
Rule:    a leader believes in its lease for RENEW_DEADLINE after it *asked* for it, everybody else for the
         lease's own time after they *saw* it change. The first time is the shorter one and begins earlier, so
         there are never two leaders, whatever the machines' clocks show, if only they run at about the same
         speed. Nobody compares the times that are written into a Lease: they are for people.
Source:  client-go, tools/leaderelection; the timings are controller-runtime's, which upstream uses. client-go
         counts the deadline from the first try that fails, this one from the last that succeeded: 2 s safer.
"""

from dataclasses import dataclass

LEASE_SECONDS = 15
RENEW_DEADLINE = 10.0
"""[s] A leader that could not renew for so long steps down."""
RETRY_PERIOD = 2.0
"""[s] Between tries, renewals and bids alike."""
JITTER = 0.2
"""Tries are spaced by up to so much more, so that not all candidates bid at once."""
RELEASED_SECONDS = 1
"""What a lease is told to last that nobody holds; the API takes no 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A Lease as the API has it."""

    holder: str = ""
    """Empty: nobody's."""
    seconds: int = LEASE_SECONDS
    transitions: int = 0
    version: str = ""
    """The API takes a write only on top of the version it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid:
    """What to write."""

    holder: str
    seconds: int
    transitions: int
    is_renewal: bool
    """The time at which the lease was acquired stays."""
    on: Record | None
    """What it is to replace; None: there is no Lease yet, it is to be created."""


class Election:
    """One candidate. Times are its own clock's [s]."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._seen: Record | None = None
        self._seen_at = 0.0
        self._is_fresh = False
        """What was seen last is what the API has, as far as we know."""
        self._leads_until = float("-inf")
        self.is_leaving = False

    # --- what is asked of it

    def leads(self, now: float) -> bool:
        """Whether this candidate is the leader."""
        return now < self._leads_until and not self.is_leaving

    @property
    def leader(self) -> str:
        """Whom the Lease names, for people; empty: nobody, or nobody knows."""
        return self._seen.holder if self._seen is not None else ""

    def must_read(self, now: float) -> bool:
        """The Lease is to be looked at before anything can be written: somebody else may have."""
        return not (self._is_fresh and self.leads(now))

    def bid(self, now: float) -> Bid | None:
        """What to write now; None: the Lease is another's."""
        seen = self._seen
        if self.is_leaving or (seen is not None and self._is_anothers(seen, now)):
            return None
        is_renewal = seen is not None and seen.holder == self.identity
        changes = 0 if seen is None else seen.transitions + (not is_renewal)
        return Bid(
            holder=self.identity, seconds=LEASE_SECONDS, transitions=changes, is_renewal=is_renewal, on=seen
        )

    def leave(self) -> None:
        """Lead no longer, and bid no more."""
        self.is_leaving = True

    def release(self) -> Bid | None:
        """What to write so that the next one need not wait; None: the Lease is not ours."""
        seen = self._seen
        if seen is None or seen.holder != self.identity:
            return None
        return Bid(
            holder="", seconds=RELEASED_SECONDS, transitions=seen.transitions, is_renewal=False, on=seen
        )

    # --- what it is told

    def read(self, record: Record | None, now: float) -> None:
        """What the API has; None: no such Lease."""
        if record is None or self._seen is None or record.version != self._seen.version:
            self._seen_at = now
        if record is None or record.holder != self.identity:
            self._leads_until = float("-inf")  # somebody has taken it away by hand
        self._seen, self._is_fresh = record, True

    def taken(self, bid: Bid, record: Record, asked_at: float, now: float) -> None:
        """The API took ``bid``, which was sent at ``asked_at``: the Lease is ``record`` now."""
        self._seen, self._seen_at, self._is_fresh = record, now, True
        if bid.holder == self.identity:
            self._leads_until = asked_at + RENEW_DEADLINE

    def refused(self) -> None:
        """The API did not take a bid, or gave no answer: who knows what the Lease is now."""
        self._is_fresh = False

    def _is_anothers(self, seen: Record, now: float) -> bool:
        return seen.holder not in {"", self.identity} and now < self._seen_at + seen.seconds
