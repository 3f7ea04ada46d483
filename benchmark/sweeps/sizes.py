"""The sizes that growth.py measures: a base point, what each sweep changes, and batches of random ids for a point."""

from dataclasses import dataclass

import numpy as np

from pytorch_dl.config.model_config import ModelConfig
from pytorch_dl.dataset.batching import Batch, Special, collate, token_ids_of
from pytorch_dl.dataset.planning import Lengths, Planner

SEED = 1
SPECIAL = Special(pad_id=0, bos_id=1, eos_id=2)
FIRST_ID = 3  # of text


@dataclass(frozen=True)
class Point:
    """One size of model and batch."""

    d_model: int
    head_width: int
    layers: int  # of the encoder, and as many of the decoder
    sentence_length: int  # in tokens, the added one included
    vocabulary: int
    tokens: int  # of a step on each side

    @property
    def model(self) -> ModelConfig:
        """The model's settings."""
        return ModelConfig(
            d_model=self.d_model,
            n_heads=self.d_model // self.head_width,
            d_ff=4 * self.d_model,
            num_encoder_layers=self.layers,
            num_decoder_layers=self.layers,
            pad_token_id=SPECIAL.pad_id,
        )


@dataclass(frozen=True)
class Scale:
    """The base point, what each sweep puts in the place of one of its numbers, and how much is measured."""

    base: Point
    sweeps: dict[str, tuple[int, ...]]
    repeats: int
    steps: int  # of training in a repeat
    warmup: int  # steps before the first repeat
    sizes: dict[str, tuple[int, ...]]  # of the matrices of the roofline, by device
    mebibytes: dict[str, int]  # of the tensors that measure the bandwidth


FULL = Scale(
    Point(d_model=256, head_width=64, layers=3, sentence_length=16, vocabulary=8000, tokens=1024),
    {
        "d_model": (128, 256, 384, 512),
        "layers": (1, 2, 3, 6),
        "sentence_length": (16, 32, 64, 128),
        "vocabulary": (2000, 8000, 16000, 32000),
        "tokens": (256, 512, 1024, 2048, 4096),
    },
    repeats=7,
    steps=5,
    warmup=4,
    sizes={"cpu": (1024, 1536, 2048), "cuda": (4096, 6144, 8192)},
    mebibytes={"cpu": 1024, "cuda": 1024},
)
QUICK = Scale(
    Point(d_model=32, head_width=16, layers=1, sentence_length=16, vocabulary=200, tokens=128),
    {
        "d_model": (32, 64),
        "layers": (1, 2),
        "sentence_length": (16, 32, 64),
        "vocabulary": (200, 400, 800),
        "tokens": (64, 128, 256),
    },
    repeats=2,
    steps=2,
    warmup=1,
    sizes={"cpu": (128, 256), "cuda": (1024, 2048)},
    mebibytes={"cpu": 4, "cuda": 64},
)


def packed_batches(point: Point, count: int) -> list[Batch]:
    """Batches of random ids: sentences of one length, packed into rows by the planner of a training."""
    pairs, length = count * point.tokens // point.sentence_length, point.sentence_length
    ids = np.random.default_rng(SEED).integers(FIRST_ID, point.vocabulary, (2, pairs, length - 1))
    src, tgt = (token_ids_of(side) for side in ids.tolist())
    lengths = np.full(pairs, length)
    planner = Planner(
        Lengths(lengths, lengths),
        np.arange(pairs),
        [(0, pairs, 1.0)],
        seed=SEED,
        max_tokens=point.tokens,
        packed=True,
    )
    plan = planner.plan(0)
    return [collate(plan, index, src, tgt, SPECIAL) for index in range(len(plan))]
