"""The connection under abuse: each kind gets its error code, costs little and leaves nothing behind."""

import pytest

from bench import frames
from bench.frames import Error, Kind, Setting, call, data, headers, message, reset, window_update
from epp.runtime.fast.connection import Limits
from tests.fast.abuse import CONNECTION, STREAM, Abuse
from tests.fast.peer import BROKEN, ECHO, LIMITS, Talk, held_bytes


@pytest.mark.parametrize("abuse", CONNECTION.values(), ids=CONNECTION.keys())
def test_a_peer_that_breaks_the_rules_of_the_connection_is_told_so_and_closed(abuse: Abuse) -> None:
    talk = Talk()
    talk.say(*abuse.sent(ECHO))
    assert talk.fault is abuse.code
    assert not talk.say(frames.ping()), "nothing is read any more"
    talk.end()


@pytest.mark.parametrize("abuse", STREAM.values(), ids=STREAM.keys())
def test_a_peer_that_breaks_the_rules_of_a_stream_loses_this_stream(abuse: Abuse) -> None:
    talk = Talk()
    talk.say(*abuse.sent(ECHO))
    assert talk[1].reset is abuse.code
    assert talk.is_alive()
    talk.end()
