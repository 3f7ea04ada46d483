"""How good a model is on the validation set: its loss over all tokens, and scores of its translations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pytorch_dl.dataset.batching import IGNORED_LABEL, Batch
from pytorch_dl.errors import ConfigError, NonFiniteError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.loaders import batches_from, shared_batches
from pytorch_dl.training.objective import batch_hidden, batch_loss
from pytorch_dl.training.peers import ALONE, Peers
from pytorch_dl.training.precision import Precision, autocast
from pytorch_dl.training.progress import Sample
from pytorch_dl.training.sharding import close, exchanging, is_divided, made_up_batch, whole_copy

CHUNK_ROWS = 1024  # of logits at once
Poll = Callable[[], None]  # called now and then; what it raises ends the validation


class Decoded(NamedTuple):
    """Translations of part of the validation set: scores (bleu, chrf, exact_match) and a few samples."""

    scores: Mapping[str, float]
    samples: Sequence[Sample]


Decode = Callable[[OptimizedTransformer, Poll], Decoded]


def validate(
    model: OptimizedTransformer,
    loader: object,
    decode: Decode | None,
    *,
    step: int,
    precision: Precision,
    poll: Poll,
    peers: Peers = ALONE,
) -> tuple[dict[str, float], Sequence[Sample]]:
    """Loss and perplexity over all tokens of the set after `step`, and scores and samples of translations, if any.

    Processes share the batches; the first one translates.
    """
    training = model.training
    model.eval()
    try:
        nll, tokens = validation_nll(model, loader, precision=precision, poll=poll, peers=peers)
        if not tokens:
            raise ConfigError(
                f"the validation data gave no target token at step {step}",
                fix="give a loader that can be gone through more than once",
            )
        loss = nll / tokens
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"validation loss {loss} at step {step}",
                fix="lower training.learning_rate, or set training.mixed_precision to false",
            )
        decoded = Decoded({}, [])
        if decode:
            with whole_copy(model) as whole:
                decoded = decode(whole, poll) if peers.is_first else decoded
        scores: dict[str, float] = peers.tell(dict(decoded.scores))
    finally:
        model.train(training)
    return {"val_loss": loss, "val_ppl": math.exp(min(loss, 700.0)), **scores}, decoded.samples


@torch.no_grad()
def validation_nll(
    model: OptimizedTransformer, loader: object, *, precision: Precision, poll: Poll, peers: Peers = ALONE
) -> tuple[float, int]:
    """Negative log-likelihood in nats and target tokens, summed over the whole set; `model` must be in eval mode."""
    device = next(model.parameters()).device
    found: list[tuple[float, float]] = []  # nll and tokens of each batch, zeros for another process's

    def nll(batch: Batch) -> float:
        with autocast(precision, device):
            return batch_loss(model, batch.to(device)).nll.item()

    with exchanging(model, peers):
        for batch in shared_batches(loader, 0, 0, model=model, peers=peers, slots=peers.size):
            poll()
            found.append((0.0, 0.0) if batch is None else (nll(batch), batch.num_tgt_tokens))
        if is_divided(model) and 0 < len(found) % peers.size <= peers.rank:  # there is no batch in the last round
            nll(made_up_batch(model))
        close(model)
    whole = peers.add_up(torch.tensor(found, dtype=torch.float64, device=device)).tolist()
    return sum(loss for loss, _ in whole), int(sum(tokens for _, tokens in whole))


@torch.no_grad()
def pair_nll(model: OptimizedTransformer, loader: object, *, pairs: int) -> tuple[Tensor, Tensor]:
    """(pairs,) negative log-likelihood of each pair in nats, and (pairs,) its target tokens: 0 of pairs left out.

    `model` must be in eval mode; a pair's place is its number in the loader's text.
    """
    device = next(model.parameters()).device
    nll, tokens = (torch.zeros(pairs, dtype=torch.float64, device=device) for _ in range(2))
    for batch in batches_from(loader, 0, 0, model=model):
        batch = batch.to(device)
        labelled = batch.labels != IGNORED_LABEL  # (B, T)
        hidden, labels = batch_hidden(model, batch)[labelled], batch.labels[labelled]  # (N, d), (N,)
        numbers = batch.token_pairs(batch.tgt_segments)[labelled]  # (N,)
        for part in (slice(start, start + CHUNK_ROWS) for start in range(0, len(labels), CHUNK_ROWS)):
            losses = functional.cross_entropy(model.output(hidden[part]).float(), labels[part], reduction="none")
            nll.index_add_(0, numbers[part], losses.double())
        tokens.index_add_(0, numbers, torch.ones_like(numbers, dtype=torch.float64))
    return nll.cpu(), tokens.cpu()
