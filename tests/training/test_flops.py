"""FLOPs are counted as torch counts those that it computes, less what padding and other sentences cost."""

import numpy as np
import pytest
import torch
from tiny import tiny_loader, tiny_model, tiny_trainer
from torch.utils.flop_counter import FlopCounterMode

from benchmark.sweeps.sizes import Point, packed_batches
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.flops import BACKWARD, FORWARD, Matrices


def step_flops(model: OptimizedTransformer, batch: Batch) -> int:
    return Matrices.of(model).step_flops(batch)


def counted(model: OptimizedTransformer, batch: Batch) -> int:
    """FLOPs of a whole training step, as torch counts the products that it runs."""
    trainer = tiny_trainer(model=model)
    with FlopCounterMode(display=False) as counter:
        trainer.train_step([batch], total_steps=100)
    return counter.get_total_flops()


def rows_of(src: int, tgt: int, *, rows: int = 1) -> Batch:
    """Rows of one pair each, without padding."""
    return Batch.from_padded(torch.full((rows, src), 5), torch.full((rows, tgt + 1), 6), pad_id=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_encoder_layers": 2, "num_decoder_layers": 3},
        {"n_kv_heads": 1},
        {"activation": "relu", "norm_type": "layernorm", "norm_first": False, "bias": True},
        {"tie_embeddings": "none", "positions": "learned"},
        {"d_ff": 24},
    ],
    ids=lambda changes: "-".join(changes) or "default",
)
@pytest.mark.parametrize("shape", [(7, 7, 3), (5, 8, 1)])
def test_flops_are_those_that_torch_counts_where_nothing_is_padded_or_packed(changes, shape):
    src, tgt, rows = shape
    model, batch = tiny_model(**changes), rows_of(src, tgt, rows=rows)
    assert step_flops(model, batch) == counted(model, batch)


def test_of_packed_rows_torch_counts_attention_to_other_sentences_too():
    point = Point(d_model=16, head_width=8, layers=2, sentence_length=16, vocabulary=48, tokens=64)
    model, (batch,) = tiny_model(num_encoder_layers=2, num_decoder_layers=2), packed_batches(point, 1)
    assert batch.src.shape == (1, 64)
    others = 64 * 64 - 4 * 16 * 16  # pairs of query and key in a row, less those within its four sentences
    attentions = 3 * 2  # in two layers of encoder and decoder
    assert counted(model, batch) - step_flops(model, batch) == 3 * attentions * 4 * 16 * others


def test_padding_is_no_work():
    model = tiny_model()
    src, tgt = torch.full((2, 9), 5), torch.full((2, 9), 6)
    src[1, 4:], tgt[1, 6:] = 0, 0  # the second pair: 4 tokens, and 5 behind the first
    both = Batch.from_padded(src, tgt, pad_id=0)
    assert step_flops(model, both) == step_flops(model, rows_of(9, 8)) + step_flops(model, rows_of(4, 5))
    assert counted(model, both) == counted(model, rows_of(9, 8, rows=2)) > step_flops(model, both)


def test_the_forward_pass_is_a_third():
    model, batch = tiny_model(attention="plain"), rows_of(6, 5, rows=2)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch.src, batch.tgt_in)
    forward = Matrices.of(model).forward_flops(np.array([6, 6]), np.array([5, 5]))
    assert forward == counter.get_total_flops()
    assert (FORWARD + BACKWARD) * forward == step_flops(model, batch)


@pytest.mark.parametrize("packed", [True, False])
def test_lengths_of_an_epoch_tell_what_its_batches_do(packed):
    loader, model = tiny_loader(packed=packed), tiny_model()
    plan = loader.plan(0)
    lengths = loader.planner.lengths.take(plan.pairs)
    steps = sum(step_flops(model, batch) for batch in loader.batches(0))
    assert steps == (FORWARD + BACKWARD) * Matrices.of(model).forward_flops(lengths.src, lengths.tgt)
