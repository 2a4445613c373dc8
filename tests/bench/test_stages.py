import pytest

from bench import stages
from bench.replay import Replay
from bench.stages import DRIVER, STAGES, Stopwatch, found
from tests.bench.conversations import a_recording


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stages, "clock", made)
    return made


def test_a_stages_time_is_its_own(clock: Clock) -> None:
    watch = Stopwatch(2)

    def inner() -> None:
        clock.now += 5

    timed_inner = watch.on(inner, 2)

    def outer() -> None:
        clock.now += 10
        timed_inner()
        clock.now += 100
        timed_inner()

    watch.start()
    clock.now += 1_000
    watch.on(outer, 1)()
    clock.now += 2_000
    watch.stop()
    assert watch.spent == [3_000, 110, 10]
    assert watch.calls == [0, 1, 2]
    assert watch.children == [1, 2, 0]


def test_a_stage_that_fails_ends_all_the_same(clock: Clock) -> None:
    watch = Stopwatch(1)

    def fails() -> None:
        clock.now += 5
        raise KeyError("x")

    watch.start()
    with pytest.raises(KeyError):
        watch.on(fails, 1)()
    clock.now += 7
    watch.stop()
    assert watch.spent == [7, 5]


def test_a_new_start_forgets_everything(clock: Clock) -> None:
    watch = Stopwatch(1)
    watch.start()
    clock.now += 5
    watch.stop()
    watch.start()
    watch.stop()
    assert watch.spent == [0, 0]


@pytest.mark.parametrize("target", [target for targets in STAGES.values() for target in targets])
def test_every_stage_names_code_that_exists(target: str) -> None:
    assert found(target)


def test_overriding_methods_belong_to_a_stage() -> None:
    places = found("epp.core.response_reader:ResponseReader.feed")
    assert {"ResponseReader", "JsonReader"} <= {place.__name__ for place, _ in places}


@pytest.mark.parametrize(
    "target", ["epp.core.stream:nothing", "epp.core.stream:Stream.nothing", "epp.core.stream:Nobody.receive"]
)
def test_code_that_does_not_exist_is_an_error(target: str) -> None:
    with pytest.raises(LookupError, match="STAGES must name what there is"):
        found(target)


def test_all_stages_together_are_the_whole_and_nothing_is_left_behind() -> None:
    replay = Replay(a_recording(requests=2))
    places = [place for targets in STAGES.values() for target in targets for place in found(target)]
    before = [vars(owner)[name] for owner, name in places]
    costs = stages.of_replay(replay, 2)
    replay.close()
    assert list(costs) == [DRIVER, *STAGES]
    assert [vars(owner)[name] for owner, name in places] == before


def test_every_stage_is_met_by_an_ordinary_request() -> None:
    replay, watch = Replay(a_recording(requests=2)), Stopwatch(len(STAGES))
    with stages._watched(watch):
        replay.say(replay.ready(), before=watch.start)
        watch.stop()
    replay.close()
    met = dict(zip(STAGES, watch.calls[1:], strict=True))
    assert all(met.values()), met
    assert met["scored and picked"] == met["request parsed"] == met["log line"] == 2
