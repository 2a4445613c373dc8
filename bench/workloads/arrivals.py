"""When sessions begin.

Place:   bench.workloads.generate puts sessions to these moments.
Ignores: what is asked.
Rule:    moments [s] never go back and come without end, except those of stages, which have one. The mean rate
         is the one that was asked for, whatever the process.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from random import Random

from bench.workloads.spec import Arrivals, Bursts, Diurnal, Stage


def moments(arrivals: Arrivals, per_second: float, chance: Random) -> Iterator[float]:
    """``per_second`` sessions in the mean."""
    if arrivals.bursts is not None:
        return bursts(arrivals.bursts, per_second, chance)
    if arrivals.diurnal is not None:
        return diurnal(arrivals.diurnal, per_second, chance)
    if arrivals.stages is not None:
        return staged(arrivals.stages, per_second, chance)
    return poisson(per_second, chance)


def poisson(per_second: float, chance: Random) -> Iterator[float]:
    """Each independent of all others."""
    moment = 0.0
    while True:
        moment += chance.expovariate(per_second)
        yield moment


def bursts(of: Bursts, per_second: float, chance: Random) -> Iterator[float]:
    """A Poisson process of bursts."""
    for moment in poisson(per_second / of.sessions, chance):
        yield from itertools.repeat(moment, of.sessions)


def diurnal(of: Diurnal, per_second: float, chance: Random) -> Iterator[float]:
    """A Poisson process at the highest rate, from which as many are left out as the hour says."""
    highest = 1 + of.swing
    turn = 2 * math.pi / of.period
    for moment in poisson(per_second * highest, chance):
        if chance.random() * highest < 1 + of.swing * math.sin(turn * moment):
            yield moment


def staged(stages: Sequence[Stage], per_second: float, chance: Random) -> Iterator[float]:
    """The stages' rates, scaled so that their mean is ``per_second``."""
    scale = per_second / mean_rate(stages)
    begins = 0.0
    for stage in stages:
        ends = begins + stage.duration
        # A Poisson process has no memory: it may begin anew with each stage.
        for moment in poisson(stage.requests_per_second * scale, chance):
            if begins + moment >= ends:
                break
            yield begins + moment
        begins = ends


def mean_rate(stages: Sequence[Stage]) -> float:
    """Over all of their time [1/s]."""
    asked = sum(stage.requests_per_second * stage.duration for stage in stages)
    return asked / sum(stage.duration for stage in stages)
