"""The fewest batches of a step that fit into memory, beside trying all numbers."""

from collections.abc import Callable
from itertools import product

import pytest

from pytorch_dl.errors import ConfigError
from pytorch_dl.training.step_division import Division, divide_step, fewest


class Device:
    """Memory of which training needs a function of the tokens; what is more than it has, it refuses."""

    def __init__(
        self, need: Callable[[int], int], *, has: int, allowed: int, tells: bool = True, enough: int | None = None
    ) -> None:
        self.need, self.has, self.allowed, self.tells, self.enough = need, has, allowed, tells, enough
        self.asked: list[int] = []

    def peak(self, tokens: int) -> int | None:
        self.asked.append(tokens)
        return need if (need := self.need(tokens)) <= self.has else None


def by_trying_all(device: Device, step_tokens: int, *, width: int, processes: int) -> int | None:
    for batches in range(processes, step_tokens // width + 1, processes):
        tokens = step_tokens // batches
        if device.need(tokens) <= device.allowed and (device.enough is None or tokens <= max(width, device.enough)):
            return batches
    return None


@pytest.mark.parametrize("step", [1, 2, 3])
def test_fewest_is_the_first_that_fits_from_any_guess(step: int) -> None:
    for most, guess, least in product(range(step, 40, step), range(1, 45), range(1, 45)):
        tried: list[int] = []

        def fits(number: int, tried: list[int] = tried, least: int = least) -> bool:
            tried.append(number)
            return number >= least

        wanted = next((number for number in range(step, most + 1, step) if number >= least), None)
        assert fewest(fits, guess=guess, most=most, step=step) == wanted
        assert all(0 < number <= most and number % step == 0 for number in tried)
        assert len(set(tried)) == len(tried) <= 12


SHAPES = {
    "even": lambda tokens: 500 + 7 * tokens,
    "in blocks": lambda tokens: 500 + 64 * -(-7 * tokens // 64),
    "less and less": lambda tokens: 500 + int(200 * tokens**0.5),
    "more and more": lambda tokens: 500 + tokens * tokens // 20,
    "none": lambda tokens: 500,
}


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_tried_is_the_fewest_of_all_numbers(shape: str, processes: int) -> None:
    need, found = SHAPES[shape], set()
    for step_tokens, allowed, spare in product((30, 31, 100, 997), range(400, 9000, 150), (0, 700)):
        device = Device(need, has=allowed + spare, allowed=allowed)
        division = divide_step(step_tokens, device, width=10, processes=processes)
        wanted = by_trying_all(device, step_tokens, width=10, processes=processes)
        if need(10) > allowed:
            wanted = None  # not even one row
        assert (division and division.batches) == wanted
        assert division is None or need(division.tokens) <= allowed
        found.add(wanted)
    assert len(found) > 1


@pytest.mark.parametrize("processes", [1, 2])
def test_without_trying_it_is_the_fewest_where_memory_grows_evenly(processes: int) -> None:
    for step_tokens, allowed, enough in product((30, 100, 997), range(500, 9000, 70), (None, 5, 60)):
        device = Device(SHAPES["even"], has=10**9, allowed=allowed, tells=False, enough=enough)
        division = divide_step(step_tokens, device, width=10, processes=processes)
        wanted = by_trying_all(device, step_tokens, width=10, processes=processes)
        assert (division and division.batches) == wanted
        assert division is None or division.needed == device.need(division.tokens)
        assert max(device.asked) <= 160


def test_without_trying_more_is_never_taken_where_growth_slows_beyond_what_was_measured() -> None:
    beyond = 0
    for step_tokens, allowed in product((997, 5000), range(500, 12000, 70)):
        device = Device(SHAPES["less and less"], has=10**9, allowed=allowed, tells=False)
        division = divide_step(step_tokens, device, width=10)
        if division and division.tokens >= max(device.asked):
            assert device.need(division.tokens) <= allowed
            beyond += 1
    assert beyond > 50


def test_a_step_that_fits_is_one_batch() -> None:
    device = Device(SHAPES["even"], has=10**6, allowed=10**6)
    assert divide_step(4096, device, width=64) == Division(1, 4096, 500 + 7 * 4096)


def test_too_few_tokens_for_all_processes() -> None:
    device = Device(SHAPES["even"], has=10**6, allowed=10**6)
    with pytest.raises(ConfigError, match=r"is 100, too few .* 64 tokens for each of 2 processes.* raise it to 128"):
        divide_step(100, device, width=64, processes=2)
