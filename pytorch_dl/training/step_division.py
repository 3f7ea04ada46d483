"""The fewest batches that make an optimizer step and fit into memory.

Memory grows evenly with a batch's rows: two small batches tell how, and with it the number of batches. Where a lack of
memory is an error, that number is tried, and those beside it until one suffices where the next smaller one does not.
Elsewhere it is believed.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from pytorch_dl.errors import ConfigError

MORE_ROWS = 16  # of the second batch that is measured


class Memory(Protocol):
    """A device's: what may be taken of it, and what a step takes."""

    @property
    def allowed(self) -> int:
        """Bytes."""

    @property
    def tells(self) -> bool:
        """Whether it may be asked for too much."""

    @property
    def enough(self) -> int | None:
        """Tokens of a batch beyond which nothing is gained."""

    def peak(self, tokens: int) -> int | None:
        """Bytes that training with batches of so many tokens needs; None where they are not to be had."""


class Division(NamedTuple):
    """A step as so many batches of so many tokens, for which memory suffices by what was measured."""

    batches: int
    tokens: int
    needed: int  # bytes


def divide_step(step_tokens: int, memory: Memory, *, width: int, processes: int = 1) -> Division | None:
    """The fewest batches, as many for each process, of rows of `width` tokens; None where one row does not fit."""
    most = step_tokens // width // processes * processes
    if not most:
        raise ConfigError(
            f"training.tokens_per_step is {step_tokens}, too few for a batch of {width} tokens for each of "
            f"{processes} processes",
            fix=f"raise it to {width * processes} or more",
        )
    small, large = width, min(MORE_ROWS * width, step_tokens // processes)
    least = memory.peak(small)
    if least is None or least > memory.allowed:
        return None
    more = memory.peak(large) if large > small else None
    growth = (more - least) / (large - small) if more else 0.0  # bytes a token
    room = small + (memory.allowed - least) / growth if growth > 0 else large if more else small
    room = int(min(room, max(width, memory.enough or room)))

    def fits(batches: int) -> bool:
        tokens = step_tokens // batches
        if not memory.tells:
            return tokens <= room
        peak = memory.peak(tokens)
        return peak is not None and peak <= memory.allowed

    found = fewest(fits, guess=step_tokens // (room + 1) + 1, most=most, step=processes)
    if found is None:
        return None
    tokens = step_tokens // found
    return Division(found, tokens, least + int(growth * (tokens - small)))


def fewest(fits: Callable[[int], bool], *, guess: int, most: int, step: int) -> int | None:
    """The smallest multiple of `step` up to `most` that fits, where all larger ones do, sought from a guess on.

    In steps that double, then halving what lies between. None: none fits.
    """
    number, stride = min(-(-guess // step) * step, most), step
    if fits(number):
        below, above = number - stride, number
        while below > 0 and fits(below):
            stride *= 2
            below, above = below - stride, below
    else:
        below = number
        while (above := min(most, below + stride)) > below and not fits(above):
            below, stride = above, 2 * stride
        if above == below:
            return None
    below = max(0, below)
    while above - below > step:
        middle = (below + above) // 2 // step * step
        below, above = (below, middle) if fits(middle) else (middle, above)
    return above
