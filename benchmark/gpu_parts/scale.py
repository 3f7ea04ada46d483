"""At which sizes gpu.py measures, and what its parts share: the device, the time that is left, where results go."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Found = dict[str, Any]  # what a part found, as JSON


@dataclass(frozen=True)
class Shape:
    """The size of a model."""

    d_model: int
    n_heads: int
    d_ff: int
    layers: int  # of the encoder, and as many of the decoder

    def settings(self) -> dict[str, int]:
        """As settings of ModelConfig."""
        layers = {"num_encoder_layers": self.layers, "num_decoder_layers": self.layers}
        return {"d_model": self.d_model, "n_heads": self.n_heads, "d_ff": self.d_ff, **layers}


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured."""

    vocabulary: int
    presets: dict[str, Shape]
    tokens: tuple[int, ...]  # of the target in a batch, the most important first
    counted_tokens: int  # of a batch of the preset of which steps are counted and profiled
    batches: int  # that a training goes through again and again
    matrices: tuple[tuple[int, int, int], ...]  # rows, columns in common, columns
    mebibytes: int  # that are copied
    rows: tuple[int, ...]  # lengths of rows in the race of attentions, the most important first
    heads: tuple[int, ...]
    head_width: int
    raced_tokens: int
    small: Shape  # the model that is checked
    small_vocabulary: int
    small_tokens: int
    repeats: int
    seconds: float  # that a repeat takes at least
    most_steps: int  # of a repeat, however fast they are
    grouped: int  # steps of a repeat of who groups so many batches by length


FULL = Scale(
    vocabulary=32_000,
    presets={"base": Shape(512, 8, 2048, 6), "big": Shape(1024, 16, 4096, 6)},
    tokens=(16_384, 65_536, 131_072),
    counted_tokens=16_384,
    batches=6,
    matrices=((8192, 8192, 8192), (4096, 1024, 4096), (16_384, 512, 2048), (4096, 512, 32_000)),
    mebibytes=1024,
    rows=(128, 256, 64, 512, 32),
    heads=(8, 16),
    head_width=64,
    raced_tokens=32_768,
    small=Shape(256, 4, 1024, 2),
    small_vocabulary=2000,
    small_tokens=2048,
    repeats=3,
    seconds=0.5,
    most_steps=40,
    grouped=50,
)
QUICK = Scale(
    vocabulary=200,
    presets={"base": Shape(32, 2, 64, 1), "big": Shape(48, 2, 96, 1)},
    tokens=(256, 512),
    counted_tokens=256,
    batches=2,
    matrices=((64, 64, 64), (64, 32, 64)),
    mebibytes=1,
    rows=(32, 16),
    heads=(2,),
    head_width=16,
    raced_tokens=128,
    small=Shape(32, 2, 64, 1),
    small_vocabulary=64,
    small_tokens=256,
    repeats=2,
    seconds=0.0,
    most_steps=2,
    grouped=2,
)


@dataclass
class Bench:
    """What all parts are given."""

    device: torch.device
    scale: Scale
    compiled: bool  # compile at all
    peak_flops: float  # FLOP/s that utilisation is a share of
    save: Callable[[], None] = lambda: None  # write down what is found so far
    deadline: float = float("inf")  # of the part, on the monotonic clock
    kept: Found = field(default_factory=dict)  # by parts for later ones; not written

    @property
    def time_left(self) -> float:
        """Seconds of this part's time."""
        return self.deadline - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        """Whether this is the real thing."""
        return self.device.type == "cuda"

    def say(self, text: str) -> None:
        """Tell how far it is: what is told outlives a machine whose files are lost."""
        print(text, file=sys.stderr, flush=True)
