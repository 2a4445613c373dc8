"""What the controller counts, for /metrics.

Place:   written by loop.py, read by pages.py.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from epp.compiler.emission import Emitted
from epp.compiler.findings import Finding
from epp.runtime.metrics import Family, Histogram, Histograms, Numbers, Values

ROUND_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class ControllerMetrics:
    """``writes``: by verb and kind, counted where they are made.

    How things are is told by the replica that leads; what another last saw, while it led, is long past. When
    all was last as wanted stays true: of several replicas the latest counts.
    """

    def __init__(self, writes: Counter[tuple[str, str]]) -> None:
        self.is_leading = True
        self.waiting = 0
        """Steps that are still to be done."""
        self.conflicts = 0
        self.last_success: float | None = None
        """[s] Since 1970."""
        self.failures = 0
        self._writes = writes
        self._rounds = Histogram(ROUND_SECONDS)
        self._objects: Counter[str] = Counter()
        self._findings: Counter[tuple[str, str]] = Counter()

    def compiled(self, objects: Iterable[Emitted], findings: Iterable[Finding]) -> None:
        """What came of a compilation."""
        self._objects = Counter(one.key[0] for one in objects)
        self._findings = Counter((one.severity.value, one.code) for one in findings)

    def ended(self, seconds: float) -> None:
        """A round took so long."""
        self._rounds.observe(seconds)

    def families(self) -> Iterator[Family]:
        """As they are now."""
        for name, text, labels, numbers in self._state():
            shown = numbers if self.is_leading else {}
            yield Values(f"fleet_epp_controller_{name}", "gauge", text, labels, shown)
        success: Numbers = {} if self.last_success is None else {(): self.last_success}
        name, help_text = "last_success_timestamp_seconds", "When all was last as wanted."
        yield Values(f"fleet_epp_controller_{name}", "gauge", help_text, (), success)
        writes: Numbers = {labels: float(count) for labels, count in self._writes.items()}
        help_text = "Writes to the Kubernetes API, whatever came of them."
        yield Values("fleet_epp_controller_writes_total", "counter", help_text, ("verb", "kind"), writes)
        help_text = "Time from seeing a change to the last write that follows from it."
        yield Histograms("fleet_epp_controller_round_seconds", help_text, (), {(): self._rounds})
        help_text = "Rounds after which something was not as wanted."
        failures: Numbers = {(): float(self.failures)}
        yield Values("fleet_epp_controller_failures_total", "counter", help_text, (), failures)

    def _state(self) -> Iterator[tuple[str, str, tuple[str, ...], Numbers]]:
        objects: Numbers = {(kind,): float(count) for kind, count in self._objects.items()}
        yield "objects", "Objects that are to be there.", ("kind",), objects
        findings: Numbers = {labels: float(count) for labels, count in self._findings.items()}
        yield "findings", "What the compiler has to say about the inputs.", ("severity", "code"), findings
        yield "conflicts", "Objects that somebody else has made.", (), {(): float(self.conflicts)}
        yield "queue_depth", "Writes that are to be tried again.", (), {(): float(self.waiting)}
