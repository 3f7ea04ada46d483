"""Small models, and pairs of random tokens laid out in rows by hand: one to a row or packed, padded to any width."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models.dropout import mix_number, token_keys
from pytorch_dl.models.kv_cache import DecoderCache
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side

VOCAB = 23
PAD = 0


class Pair(NamedTuple):
    number: int  # of the pair in its corpus, which decides its dropout
    src: list[int]
    tgt: list[int]
    labels: list[int]


def decode_step(model: OptimizedTransformer, tokens: Tensor, cache: DecoderCache) -> Tensor:
    """The last token of each beam (B, K) -> logits (B, K, V) of the next."""
    return model.project(model.decode_step(tokens, cache))


def small(**changes: Any) -> OptimizedTransformer:
    """A model of 2 + 2 layers and width 16 with random weights everywhere, without dropout unless asked for."""
    settings: dict[str, Any] = {"d_model": 16, "n_heads": 4, "d_ff": 24, "max_seq_len": 32, "dropout": 0.0}
    layers = {"num_encoder_layers": 2, "num_decoder_layers": 2}
    return randomised(
        OptimizedTransformer(**{"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB, **settings, **layers, **changes})
    )


def randomised(module: Any) -> Any:
    """Give vectors random values too, so that no bias or norm can be forgotten unseen."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return module


def random_pairs(count: int, *, longest: int = 7, seed: int = 0) -> list[Pair]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(length: int) -> list[int]:
        return torch.randint(1, VOCAB, (length,), generator=generator).tolist()

    lengths = torch.randint(1, longest + 1, (count, 2), generator=generator).tolist()
    return [Pair(100 + i, tokens(src), tokens(tgt), tokens(tgt)) for i, (src, tgt) in enumerate(lengths)]


def side(rows: Sequence[Sequence[Pair]], read: Callable[[Pair], list[int]], *, width: int, base: int) -> Side:
    """Lay pairs out in rows of `width` tokens; `base` (seed, step, side) decides the dropout."""
    tokens, segments, positions, numbers = (torch.zeros(len(rows), width, dtype=torch.int64) for _ in range(4))
    for row, pairs in enumerate(rows):
        start = 0
        for segment, pair in enumerate(pairs, 1):
            part = slice(start, start + len(read(pair)))
            tokens[row, part] = torch.tensor(read(pair))
            segments[row, part] = segment
            positions[row, part] = torch.arange(len(read(pair)))
            numbers[row, part] = pair.number
            start = part.stop
    return Side(tokens, segments, positions, token_keys(base, numbers, positions))


def sides(rows: Sequence[Sequence[Pair]], *, src_width: int, tgt_width: int) -> tuple[Side, Side, Tensor]:
    """Source, target and labels (0 where there is none)."""
    src = side(rows, lambda pair: pair.src, width=src_width, base=mix_number(7, 3, 0))
    tgt = side(rows, lambda pair: pair.tgt, width=tgt_width, base=mix_number(7, 3, 1))
    labels = side(rows, lambda pair: pair.labels, width=tgt_width, base=0).tokens
    return src, tgt, labels


def summed_loss(model: OptimizedTransformer, src: Side, tgt: Side, labels: Tensor) -> Tensor:
    logits = model.project(model.hidden(src, tgt))
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD, reduction="sum")


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of all parameters; each must have one."""
    module.zero_grad()
    loss.backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert all(gradient is not None for gradient in found.values()), found
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def assert_same(actual: Tensor, expected: Tensor, *, relative: float, what: object = "") -> None:
    """The greatest difference is at most `relative` times the greatest number, which is not 0."""
    greatest = expected.abs().max()
    assert greatest > 0, f"{what}: nothing to compare"
    error = (actual - expected).abs().max() / greatest
    assert error <= relative, f"{what}: differs by {error:.1e} of the greatest number"
