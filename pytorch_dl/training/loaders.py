"""What training takes its batches from: our loader, or any iterable of padded (src, tgt) tensors."""

from collections.abc import Iterable, Iterator
from typing import Protocol, cast

from torch import Tensor

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.errors import DataError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.peers import Peers


class ExactLoader(Protocol):
    """A loader whose every epoch can be had from any batch on."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


def is_exact(loader: object) -> bool:
    """Whether any batch of any epoch can be had from the loader without those before it."""
    return hasattr(loader, "batches")


def batches_from(loader: object, epoch: int, start: int, *, model: OptimizedTransformer) -> Iterator[Batch]:
    """Batches of an epoch from `start` on, of our loader or of any iterable of (src, tgt) pairs of padded tensors."""
    if is_exact(loader):
        yield from cast(ExactLoader, loader).batches(epoch, start)
        return
    first_pair = 0
    for index, item in enumerate(cast(Iterable[object], loader)):
        batch = _as_batch(item, pad_id=model.pad_token_id, first_pair=first_pair)
        first_pair += batch.src.size(0)
        if index >= start:
            refuse_misfit(batch, model, where=f"batch {index} of the data loader")
            yield batch


def shared_batches(
    loader: object, epoch: int, start: int, *, model: OptimizedTransformer, peers: Peers, slots: int
) -> Iterator[Batch | None]:
    """The same, with None in place of those that fall to another process, where a list has so many slots."""
    if peers.size > 1 and isinstance(loader, BatchLoader):
        yield from loader.share(epoch, start, lambda index: peers.is_mine((index - start) % slots))
        return
    for index, batch in enumerate(batches_from(loader, epoch, start, model=model), start):
        yield batch if peers.is_mine((index - start) % slots) else None


def refuse_misfit(batch: Batch, model: OptimizedTransformer, *, where: str) -> None:
    """Say what of a batch that we did not make the model cannot take."""
    if not batch.num_tgt_tokens:
        raise DataError("no pair has a target token", where=where, fix="leave such a batch out")
    labels = batch.labels.where(batch.tgt_segments > 0, 0)
    for side, ids, positions, embedding in (
        ("source", (batch.src,), batch.src_positions, model.src_embedding),
        ("target", (batch.tgt_in, labels), batch.tgt_positions, model.tgt_embedding),
    ):
        if (longest := int(positions.max()) + 1) > model.max_seq_len:
            raise DataError(
                f"a {side} of {longest} tokens is longer than model.max_seq_len ({model.max_seq_len})",
                where=where,
                fix="cut it, leave it out, or make the model with a larger max_seq_len",
            )
        for id in (bound for tokens in ids for bound in (int(tokens.min()), int(tokens.max()))):
            if not 0 <= id < embedding.num_embeddings:
                raise DataError(
                    f"the {side} has a token id {id}, but the model was made for {embedding.num_embeddings:,} tokens",
                    where=where,
                    fix="make the model with the size of the tokenizer's vocabulary",
                )


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
