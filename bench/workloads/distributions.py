"""Numbers as published generators draw them: a shape, a mean, a deviation, two bounds.

Place:   bench.workloads.spec reads them from files, bench.workloads.generate draws.
Ignores: what is counted; a number may be tokens, turns or seconds.
Rule:    a distribution is its quantile function, so that one random number gives one value, whatever the
         shape, and its mean can be computed instead of measured. Beyond a bound is the bound, which moves
         the mean of what is drawn away from the one that is written.
Source:  inference-perf, ``inference_perf/utils/distribution.py``: bounds by clipping, the log-normal shifted
         so that it begins at ``min``. What it calls ``bimodal`` it does not define; see ``_bimodal``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from statistics import NormalDist, fmean
from typing import Literal, TypeAlias

from epp.core.scoring import Seconds

Shape: TypeAlias = Literal["normal", "logNormal", "exponential", "bimodal"]
Quantile: TypeAlias = Callable[[float], float]
"""The value below which this part (0 to 1, neither included) of all values are."""

MAX_VALUE = 1e12
"""Nothing that is computed from a mean or a deviation overflows up to here."""
_MODE_SPREAD = 0.1
"""Of a mode's place: its standard deviation, so that no two prompts are of quite the same length."""
_SMALLEST = 1e-12
"""``random`` gives 0 once in 2**53 times, where a normal distribution has no quantile."""
_POINTS = 10_000

_normal = NormalDist().inv_cdf


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Whole numbers: of tokens, of turns. ``sd`` is the standard deviation."""

    shape: Shape
    mean: float
    sd: float | None = None
    min: float = 1
    max: float = math.inf

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("sd", self.sd or 0.0)):
            if value > MAX_VALUE:
                raise ValueError(f"{name}: {value:g} is too large: write at most {MAX_VALUE:g}")
        if self.min < 0:
            raise ValueError(f"min: {self.min:g} is negative: write 0 or more")
        if not self.min <= self.mean <= self.max:
            raise ValueError(f"mean: {self.mean:g} is not between min ({self.min:g}) and max ({self.max:g})")
        if self.shape == "exponential":
            if self.sd is not None:
                raise ValueError("sd: leave it out: an exponential has no other than mean - min")
        elif self.sd is None:
            raise ValueError(f'sd: is missing: "{self.shape}" needs a standard deviation')
        elif self.sd < 0:
            raise ValueError(f"sd: {self.sd:g} is negative: write 0 or more")
        elif self.shape == "bimodal":
            _modes(self, self.sd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times(Lengths):
    """Seconds, written as durations."""

    mean: Seconds
    sd: Seconds | None = None
    min: Seconds = 0.0
    max: Seconds = math.inf


def quantile(of: Lengths) -> Quantile:
    """Before rounding."""
    sd = of.sd or 0.0
    match of.shape:
        case "normal":
            raw: Quantile = partial(_shifted_normal, of.mean, sd)
        case "logNormal":
            above = max(of.mean - of.min, 1e-9)
            variance = math.log1p((sd / above) ** 2)
            raw = partial(_log_normal, of.min, math.log(above) - variance / 2, math.sqrt(variance))
        case "exponential":
            raw = partial(_exponential, of.min, of.mean - of.min)
        case "bimodal":
            raw = partial(_bimodal, *_modes(of, sd))
    return partial(_clipped, raw, of.min, of.max)


def whole(value: int | Lengths) -> Callable[[Random], int]:
    """Draws whole numbers."""
    if isinstance(value, int):
        return lambda chance: value
    at = quantile(value)
    return lambda chance: round(at(chance.random() or _SMALLEST))


def seconds(value: float | Times) -> Callable[[Random], float]:
    """Draws times."""
    if not isinstance(value, Times):
        return lambda chance: value
    at = quantile(value)
    return lambda chance: at(chance.random() or _SMALLEST)


def mean(of: Lengths) -> float:
    """Of what is drawn, bounds included."""
    at = quantile(of)
    return fmean(at((point + 0.5) / _POINTS) for point in range(_POINTS))


def _clipped(raw: Quantile, least: float, most: float, part: float) -> float:
    value = raw(part)
    return least if value < least else min(value, most)


def _shifted_normal(middle: float, sd: float, part: float) -> float:
    return middle + sd * _normal(part)


def _log_normal(least: float, mu: float, sigma: float, part: float) -> float:
    return least + math.exp(mu + sigma * _normal(part))


def _exponential(least: float, above: float, part: float) -> float:
    return least - above * math.log1p(-part)


def _bimodal(low: float, high: float, highs: float, part: float) -> float:
    """A part ``highs`` of the values is around ``high``, the others around ``low``."""
    if part < 1 - highs:
        return low + _MODE_SPREAD * low * _normal(part / (1 - highs))
    return high + _MODE_SPREAD * high * _normal(max((part - 1 + highs) / highs, _SMALLEST))


def _modes(of: Lengths, sd: float) -> tuple[float, float, float]:
    """Our reading of a bimodal that is published by mean, deviation and bounds only.

    The low mode is two of its own deviations above ``min``; place and weight of the high one follow from
    mean and ``sd``. With E[x²] = (1 + spread²) (mean (low + high) - low high) and E[x²] = mean² + sd²:
    high = (E[x²] / (1 + spread²) - mean low) / (mean - low).
    """
    low = of.min / (1 - 2 * _MODE_SPREAD)
    if not low < of.mean:
        raise ValueError(f"mean: {of.mean:g} leaves no room for a low mode above min ({of.min:g})")
    squares = (of.mean**2 + sd**2) / (1 + _MODE_SPREAD**2)
    high = (squares - of.mean * low) / (of.mean - low)
    if not of.mean < high <= of.max:
        raise ValueError(
            f"sd: {sd:g} puts the high mode at {high:g}, not between mean ({of.mean:g}) and max ({of.max:g})"
        )
    return low, high, (of.mean - low) / (high - low)
