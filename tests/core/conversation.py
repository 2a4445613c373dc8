"""A gateway and a fleet of three around one Stream, for tests that read as conversations."""

from collections import deque
from collections.abc import Iterable

from epp.core.apis import Parsers
from epp.core.budget import Budget
from epp.core.directives import Directives
from epp.core.events import (
    Answer,
    Busy,
    Event,
    Failed,
    Finished,
    Late,
    Moved,
    Outcome,
    Pick,
    Picked,
    Prefilled,
    Quitting,
    Refused,
    Release,
    ResponsePhase,
    Served,
)
from epp.core.fleet import Endpoint, EndpointSpec, Reservation
from epp.core.rejection import Rejection
from epp.core.request import Request
from epp.core.scheduling import Decision
from epp.core.stream import Stream, StreamSettings

FIRST = Endpoint(EndpointSpec(name="first", ip="10.0.0.1", port=8000))
SECOND = Endpoint(EndpointSpec(name="second", ip="10.0.0.2", port=8000))
THIRD = Endpoint(EndpointSpec(name="third", ip="10.0.0.3", port=8000))
FLEET = {endpoint.address: endpoint for endpoint in (FIRST, SECOND, THIRD)}


def decide(*endpoints: Endpoint, tokens: int = 7) -> Decision:
    chosen = endpoints or (FIRST,)
    return Decision(
        endpoints=chosen,
        reservation=Reservation(chosen[0], tokens),
        candidates=chosen,
        scores={},
        totals=[1.0] * len(chosen),
    )


class Conversation:
    """Plays the driver: answers Pick at once, carries out releases, keeps count of them."""

    def __init__(
        self,
        *,
        refuse: Rejection | None = None,
        picks_at_once: bool = True,
        budget: Budget | None = None,
        endpoints: tuple[Endpoint, ...] = (),
        response_phase: ResponsePhase = ResponsePhase.FULL,
        directives: Directives | None = None,
    ) -> None:
        self.budget = budget or Budget(1 << 30)
        settings = StreamSettings(
            Parsers(),
            self.budget,
            new_id=lambda: "made-id",
            directives=directives or Directives(),
            response_phase=response_phase,
            endpoint_at=FLEET.get,
        )
        self.stream = Stream(settings)
        self.requests: list[Request] = []
        self.decisions: list[Decision] = []
        self.releases = 0
        self.prefills = 0
        self.moves = 0
        self.verdicts: list[Served | Failed | Late | Quitting | Busy] = []
        """What was said of endpoints, in order."""
        self.outcomes: list[Outcome] = []
        self.now = 0.0
        self.held_with_answers = 0
        """Bytes of the budget while the last answers were on their way."""
        self._refuse = refuse
        self.picks_at_once = picks_at_once
        self._endpoints = endpoints

    def hear(self, *events: Event) -> list[Answer]:
        """What the gateway is told after these events."""
        waiting, answers = deque(events), []
        while waiting:
            self.now += 1.0
            for action in self.stream.receive(waiting.popleft(), self.now):
                match action:
                    case Pick(request):
                        self.requests.append(request)
                        if self.picks_at_once:
                            waiting.appendleft(self.pick())
                    case Prefilled(decision):
                        decision.reservation.prefilled(self.now)
                        self.prefills += 1
                    case Moved(decision, endpoint):
                        decision.reservation.move(endpoint)
                        self.moves += 1
                    case Served() | Failed() | Late() | Quitting() | Busy():
                        self.verdicts.append(action)
                    case Release(decision, output_tokens):
                        decision.reservation.release(self.now, output_tokens)
                        self.releases += 1
                    case Finished(outcome):
                        self.outcomes.append(outcome)
                    case _:
                        answers.append(action)
        self.held_with_answers = self.budget.used
        self.stream.delivered()
        return answers

    def pick(self) -> Picked | Refused:
        """The scheduler's answer; whatever it reserves is counted."""
        if self._refuse is not None:
            return Refused(self._refuse)
        decision = decide(*self._endpoints)
        self.decisions.append(decision)
        return Picked(decision)

    @property
    def request(self) -> Request:
        (request,) = self.requests
        return request

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome


def joined(answers: Iterable[Answer], kind: type) -> bytes:
    """The bytes of all answers of one kind."""
    return b"".join(answer.data for answer in answers if isinstance(answer, kind))
