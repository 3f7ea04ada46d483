"""All measures of all contenders by turns, so that what else the machine does meets all alike."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch

from benchmark.measuring.roofline import Probe, Roof
from benchmark.race.contender import Contender
from benchmark.race.measures import TURN_STEPS, Description, Epoch, Resident, count_epoch, mean_target
from benchmark.race.workload import Workload
from pytorch_dl.building import choose_device
from pytorch_dl.training.live_memory import Peak

CLAIMED = ("baseline", "ours")  # whom the specification's claims are about
MATRIX_SIZES, MATRIX_REPEATS = (1024, 2048), 3
T = TypeVar("T")


class Amount(NamedTuple):
    """How much is measured."""

    repeats: int
    steps: int  # of training in a repeat
    warmup: int  # steps before the first repeat
    new_tokens: int  # of each sentence; 0: the mean length of a target


@dataclass
class Figures:
    """What was measured, one list of repeats for each side."""

    epochs: dict[str, Epoch]
    new_tokens: int
    roof: Roof = field(default_factory=Roof)
    """The machine's rates, measured once in each repeat."""
    sides: dict[str, Description] = field(default_factory=dict)
    efficiency: dict[str, float] = field(default_factory=dict)
    """Real tokens / all positions, over an epoch; of who makes its own batches, over what it has trained on."""
    warmup_s: dict[str, float] = field(default_factory=dict)
    """Seconds of the steps before the first repeat, compilation included."""
    resident: dict[str, Resident] = field(default_factory=dict)
    memory: dict[str, list[Peak]] = field(default_factory=lambda: defaultdict(list))
    train_tokens_per_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sentences_per_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    losses: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Loss of a target token in the last step of each repeat: all sides learn."""


def measure(work: Workload, contenders: Sequence[Contender], amount: Amount, *, say: Callable[[str], None]) -> Figures:
    """Take all measures."""
    say("counting the batches of an epoch")
    epochs = {side.name: count_epoch(work.loader_of(side.name)) for side in contenders}
    figures = Figures(epochs, amount.new_tokens or round(mean_target(work.plain)))
    for side in contenders:
        say(f"warming up {side.name}")
        figures.sides[side.name] = side.describe()
        figures.warmup_s[side.name] = side.warm_up(amount.warmup)
        if resident := side.resident():
            figures.resident[side.name] = resident
    for repeat in range(amount.repeats):
        say(f"repeat {repeat + 1} of {amount.repeats}: training")
        figures.roof.measure(_probe(work), MATRIX_REPEATS)
        for side in turns(contenders, repeat):
            side.train(TURN_STEPS)
            turn = side.train(amount.steps)
            figures.train_tokens_per_s[side.name].append(turn.tokens_per_s)
            figures.losses[side.name].append(turn.loss)
    readers = [side for side in contenders if side.name in CLAIMED]
    for repeat in range(-1, amount.repeats):
        say(f"repeat {repeat + 1} of {amount.repeats}: inference" if repeat >= 0 else "warming up for inference")
        for side in turns(readers, repeat):
            speed = side.decode(figures.new_tokens)
            if repeat >= 0:
                figures.sentences_per_s[side.name].append(speed)
    say("memory")
    for side in contenders:
        peaks = [side.memory() for _ in range(amount.repeats)]
        figures.memory[side.name] = [peak for peak in peaks if peak]
        figures.efficiency[side.name] = side.efficiency() or epochs[side.name].efficiency
    return figures


def turns(sides: Sequence[T], repeat: int) -> list[T]:
    """The sides in another order each time."""
    start = repeat % max(1, len(sides))
    return [*sides[start:], *sides[:start]]


def _probe(work: Workload) -> Probe:
    device = choose_device(work.config.system.device)
    return Probe(device, torch.bfloat16, MATRIX_SIZES, mebibytes=64)
