"""Rounds after something has failed: when the next one is due, and what is said meanwhile."""

import logging
from dataclasses import replace

import pytest

from epp.controller.fields import Object
from epp.runtime.kubernetes.store import ApiFault
from tests.controller.objects import emitted
from tests.controller.test_rounds import World


class Refused(World):
    """Takes no HTTPRoutes; each write takes 2 s, a second more than the first pause."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.tries = 100.2, 0
        self.fault = ApiFault(422, "the API answers 422: not here")
        self.parts = replace(self.parts, clock=lambda: self.now)
        self._create = self.api.create
        self.api.create = self.create  # type: ignore[method-assign]
        self.wants(emitted("HTTPRoute", "chat"), emitted("HTTPRoute", "slow"))

    async def create(self, document: Object) -> Object:
        if document["metadata"]["name"] == "slow":
            self.now += 2.0
            return await self._create(document)
        self.tries += 1
        raise self.fault


def test_what_became_due_while_a_round_went_on_is_due() -> None:
    world = Refused()
    world.controller._due = world.now + 60.0
    world.round()
    assert world.tries == 1
    assert world.controller._due <= world.now


def test_a_refusal_is_told_once_and_as_long_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    world = Refused()
    with caplog.at_level(logging.INFO):
        for _ in range(60):
            world.round()
            world.now += 0.5
            assert world.controller.trouble == (
                "create HTTPRoute models/chat: the API answers 422: not here",
            )
    assert 2 < world.tries < 10
    said = [record.message for record in caplog.records]
    assert said.count("not as it should be") == 1 and said.count("settled") == 0


def test_an_api_that_was_away_is_asked_as_soon_as_it_is_back() -> None:
    world = Refused()
    world.fault = ApiFault(0, "no answer")
    for _ in range(20):
        world.round()
        world.now += 1.0
    assert world.tries == 20
