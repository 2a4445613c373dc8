"""An inference server that takes its time: so many requests at once, each so long, the others wait.

Stands for vLLM where a test is about its load: how long it takes must not depend on the machine's.
"""

from collections import deque

from tests.system.gate import Gate, Held


class Paced(Gate):
    """``slots`` requests at a time, ``seconds`` each."""

    def __init__(self, host: str, *, port: int, slots: int, seconds: float) -> None:
        super().__init__(host, port=port)
        self.most_waiting = 0
        self._slots = slots
        self._seconds = seconds
        self._running = 0
        self._waiting: deque[Held] = deque()

    def arrived(self, request: Held) -> None:
        self.held.add(request)
        self._waiting.append(request)
        self._go_on()
        self.most_waiting = max(self.most_waiting, len(self._waiting))

    def _go_on(self) -> None:
        while self._waiting and self._running < self._slots:
            self._running += 1
            self.later(self._seconds, self._done, self._waiting.popleft())

    def _done(self, request: Held) -> None:
        self._running -= 1
        if request in self.held:  # else its client has left
            request.let_out()
        self._go_on()

    def metrics(self) -> bytes:
        return self.readings(self._running, len(self._waiting), self._running / self._slots / 2)
