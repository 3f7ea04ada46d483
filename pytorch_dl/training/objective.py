"""Small pure functions between a batch and its loss."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from pytorch_dl.dataset.batching import IGNORED_LABEL, Batch
from pytorch_dl.errors import ConfigError, DataError
from pytorch_dl.models.dropout import mix_number, token_keys
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side
from pytorch_dl.training.loss import Loss, linear_cross_entropy
from pytorch_dl.training.precision import Precision, autocast


class ExactLoader(Protocol):
    """A loader whose every epoch can be had from any batch on."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


def is_exact(loader: object) -> bool:
    """Whether any batch of any epoch can be had from the loader without those before it."""
    return hasattr(loader, "batches")


def batches_from(loader: object, epoch: int, start: int, *, pad_id: int) -> Iterator[Batch]:
    """Batches of an epoch from `start` on, of our loader or of any iterable of (src, tgt) pairs of padded tensors."""
    if is_exact(loader):
        yield from cast(ExactLoader, loader).batches(epoch, start)
        return
    first_pair = 0
    for index, item in enumerate(cast(Iterable[object], loader)):
        batch = _as_batch(item, pad_id=pad_id, first_pair=first_pair)
        first_pair += batch.src.size(0)
        if index >= start:
            yield batch


def _as_batch(item: object, *, pad_id: int, first_pair: int) -> Batch:
    if isinstance(item, Batch):
        return item
    if isinstance(item, dict) and {"src", "tgt"} <= item.keys():
        item = (item["src"], item["tgt"])
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, Tensor) for part in item):
        return Batch.from_padded(item[0], item[1], pad_id=pad_id, first_pair=first_pair)
    raise DataError(
        f"a data loader yielded {type(item).__name__}",
        fix="yield Batch objects, or (src, tgt) tensors padded with the model's pad_token_id",
    )


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
    torch.manual_seed(mix_number(seed, step, micro_batch))


def batch_loss(
    model: OptimizedTransformer,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    keys: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Loss:
    """Summed loss of a batch."""
    hidden = model.hidden(
        Side(batch.src, batch.src_segments, batch.src_positions, keys[0]),
        Side(batch.tgt_in, batch.tgt_segments, batch.tgt_positions, keys[1]),
    )
    return linear_cross_entropy(
        hidden, model.output.weight, batch.labels, ignored=IGNORED_LABEL, label_smoothing=label_smoothing
    )


@torch.no_grad()
def validation_nll(
    model: OptimizedTransformer, loader: object, *, precision: Precision, poll: Callable[[], None]
) -> tuple[float, int]:
    """Negative log-likelihood in nats and target tokens, summed over the whole set; `poll` is called at each batch."""
    device = next(model.parameters()).device
    nll, tokens = 0.0, 0
    training = model.training
    model.eval()
    try:
        for batch in batches_from(loader, 0, 0, pad_id=model.pad_token_id):
            poll()
            with autocast(precision, device):
                nll += batch_loss(model, batch.to(device)).nll.item()
            tokens += batch.num_tgt_tokens
    finally:
        model.train(training)
    return nll, tokens


def check_vocabulary(model: nn.Module, *, src: int, tgt: int) -> str | None:
    """Say which vocabulary of the data does not fit into the model's, or None."""
    for side, size, embedding in (("src", src, "src_embedding"), ("tgt", tgt, "tgt_embedding")):
        rows = getattr(model, embedding).num_embeddings
        if size > rows:
            return f"the data has {size} {side} tokens, but the model was made with {side}_vocab_size={rows}"
    return None
