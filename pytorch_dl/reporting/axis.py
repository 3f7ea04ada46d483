"""Where numbers lie on a line of a chart, and what stands beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Axis:
    """From the value `low` to `high`, with marks between; `log`: equal factors lie equally far apart."""

    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the lower end, 1 at the upper."""
        if self.log:
            value = max(value, self.low)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(values: Sequence[float], *, from_zero: bool = False, count: int = 5) -> Axis:
    """An axis that holds all values and has about `count` round marks."""
    low, high = min(values), max(values)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        spare = abs(high) / 2 or 1.0
        low, high = (low if from_zero and low >= 0 else low - spare), high + spare
    step = _round_step((high - low) / max(1, count - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def whole(axis: Axis) -> Axis:
    """The same axis, for what is counted: with marks at whole numbers only."""
    return replace(axis, ticks=[tick for tick in axis.ticks if abs(tick - round(tick)) < 1e-6])


def logarithmic(values: Sequence[float]) -> Axis:
    """An axis for values above 0, with marks at 1, 2 and 5 times powers of ten, or fewer."""
    low, high = min(values), max(values)
    if high <= low * 1.001:
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(inside) <= 6:
            break
    stride = math.ceil(len(inside) / 6) or 1
    return Axis(low, high, inside[::stride], log=True)


def label(value: float) -> str:
    """A short form of a mark: 1.5k."""
    if abs(value) >= 1000 * _PREFIXES[0][0]:
        return f"{value:.2g}"
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g}{prefix}"
    return f"{value:.4g}" if abs(value) >= 1e-4 or not value else f"{value:.1e}".replace("e-0", "e-")


def figure(value: float) -> str:
    """A number to four digits, or to the last one before the point where these can be counted."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def _round_step(size: float) -> float:
    power = 10.0 ** math.floor(math.log10(size))
    return next(step * power for step in _STEPS if step * power >= size * 0.999)
