"""Small pure functions between a batch and its loss."""

import torch
from torch import Tensor, nn

from pytorch_dl.dataset.batching import IGNORED_LABEL, Batch
from pytorch_dl.models.dropout import mix_number, token_keys
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side
from pytorch_dl.training.loss import Loss, linear_cross_entropy


def dropout_keys(batch: Batch, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Dropout keys of both sides: of each token, whatever row and batch it lies in."""
    sides = ((batch.src_segments, batch.src_positions), (batch.tgt_segments, batch.tgt_positions))
    src, tgt = (
        token_keys(mix_number(seed, step, side), batch.token_pairs(segments), positions)
        for side, (segments, positions) in enumerate(sides)
    )
    return src, tgt


def seed_generators(seed: int, step: int, micro_batch: int) -> None:
    """Make what still draws from torch's generators (attention dropout, a user's layer) a function of the step."""
    number = mix_number(seed, step, micro_batch)
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # the same, without a millisecond's notes for devices that are not there
        torch.default_generator.manual_seed(number)


def batch_loss(
    model: OptimizedTransformer,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    keys: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Loss:
    """Summed loss of a batch."""
    hidden = batch_hidden(model, batch, keys=keys)
    return linear_cross_entropy(
        hidden,
        model.output.weight,
        batch.labels,
        ignored=IGNORED_LABEL,
        label_smoothing=label_smoothing,
        lean=model.use_checkpointing,
        compiled=model.training and model.is_compiled,
    )


def batch_hidden(
    model: OptimizedTransformer, batch: Batch, *, keys: tuple[Tensor | None, Tensor | None] = (None, None)
) -> Tensor:
    """What the model makes of a batch before its projection, (B, T, d)."""
    return model.hidden(
        Side(batch.src, batch.src_segments, batch.src_positions, keys[0]),
        Side(batch.tgt_in, batch.tgt_segments, batch.tgt_positions, keys[1]),
    )


def check_vocabulary(model: nn.Module, *, src: int, tgt: int) -> str | None:
    """Say which vocabulary of the data does not fit into the model's, or None."""
    for side, size, embedding in (("src", src, "src_embedding"), ("tgt", tgt, "tgt_embedding")):
        rows = getattr(model, embedding).num_embeddings
        if size > rows:
            return f"the data has {size} {side} tokens, but the model was made with {side}_vocab_size={rows}"
    return None
