"""What decoding remembers: by hand, and cached decoding against decoding everything anew."""

import itertools

import pytest
import torch
from small_models import VOCAB, assert_same, small
from torch import Tensor

from pytorch_dl.models.kv_cache import DecoderCache, KeyValue, LayerCache
from pytorch_dl.models.optimized_transformer import OptimizedTransformer

VARIANTS = [
    dict(zip(("positions", "norm_first", "n_kv_heads", "attention"), values, strict=True))
    for values in itertools.product(("rope", "sinusoidal", "learned"), (True, False), (None, 2, 1), ("sdpa", "plain"))
]


def cache_of(sentences: int, beams: int, *, length: int) -> DecoderCache:
    """A cache of 2 layers whose rows hold their own number, and 5 tokens at most."""
    rows = torch.arange(sentences * beams, dtype=torch.float32).view(1, 1, -1, 1, 1, 1)
    numbers = torch.arange(sentences, dtype=torch.float32).view(-1, 1, 1, 1)
    memories = [KeyValue(numbers.clone(), numbers + 0.5) for _ in range(2)]
    return DecoderCache(rows.expand(2, 2, -1, 1, 5, 1).clone(), memories, numbers.clone(), beams, length)


def test_a_layer_stores_one_token_at_a_time() -> None:
    past = torch.zeros(2, 3, 1, 4, 2)
    for length in range(4):
        new = KeyValue(torch.full((3, 1, 1, 2), 1.0 + length), torch.full((3, 1, 1, 2), -1.0 - length))
        so_far = LayerCache(past, length).extend(new)
        assert so_far.keys[0, 0, :, 0].tolist() == [1.0, 2.0, 3.0, 4.0][: length + 1]
        assert so_far.values[2, 0, :, 1].tolist() == [-1.0, -2.0, -3.0, -4.0][: length + 1]


def test_beams_go_on_from_others_of_their_sentence() -> None:
    cache = cache_of(2, 3, length=4)
    cache.reorder(torch.tensor([[2, 2, 0], [1, 0, 1]]))
    assert cache.past[1, 0, :, 0, 3, 0].tolist() == [2, 2, 0, 4, 3, 4]
    assert cache.past[0, 1, :, 0, 0, 0].tolist() == [2, 2, 0, 4, 3, 4]
    assert cache.past[0, 0, :, 0, 4, 0].tolist() == [0, 1, 2, 3, 4, 5]  # not yet written, so not moved


def test_sentences_stay_with_all_that_is_theirs() -> None:
    cache = cache_of(3, 2, length=2)
    cache.keep(torch.tensor([0, 2]))
    assert cache.past[1, 1, :, 0, 0, 0].tolist() == [0, 1, 4, 5]
    assert [memory.keys.flatten().tolist() for memory in cache.memories] == [[0, 2], [0, 2]]
    assert [memory.values.flatten().tolist() for memory in cache.memories] == [[0.5, 2.5], [0.5, 2.5]]
    assert cache.cross_bias.flatten().tolist() == [0, 2]


def full_logits(model: OptimizedTransformer, src: Tensor, written: Tensor) -> Tensor:
    """Logits (B, K, V) after the tokens written (B, K, T), each beam decoded anew from its first token."""
    sentences, beams, length = written.shape
    repeated = src.repeat_interleave(beams, dim=0)
    return model(repeated, written.view(-1, length))[:, -1].view(sentences, beams, -1)


@pytest.mark.usefixtures("float64")
@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(str(value) for value in variant.values()))
def test_cached_decoding_is_full_decoding(variant: dict[str, object]) -> None:
    model = small(dropout=0.5, **variant).eval()
    src = torch.randint(1, VOCAB, (3, 6))
    src[1, 3:], src[2, 1:] = 0, 0
    beams, steps = 3, 7
    cache = model.start_decoding(src, max_length=steps, beam_size=beams)
    written = torch.randint(1, VOCAB, (3, beams, 1))
    for step in range(steps):
        logits = model.decode_step(written[..., -1], cache)
        assert_same(logits, full_logits(model, src, written), relative=1e-12, what=step)
        if step in (2, 4):
            sentences = torch.tensor([0, 2]) if step == 2 else torch.tensor([1])
            cache.keep(sentences)
            src, written = src[sentences], written[sentences]
        order = torch.randint(0, beams, (written.size(0), beams))
        cache.reorder(order)
        written = written.gather(1, order.unsqueeze(-1).expand_as(written))
        written = torch.cat((written, torch.randint(1, VOCAB, (*written.shape[:2], 1))), dim=-1)
    assert cache.length == steps


@torch.no_grad()
def test_cached_decoding_in_single_precision() -> None:
    model = small().eval()
    src = torch.randint(1, VOCAB, (2, 5))
    cache = model.start_decoding(src, max_length=9)
    written = torch.randint(1, VOCAB, (2, 1, 9))
    for step in range(9):
        logits = model.decode_step(written[..., step], cache)
        assert_same(logits, full_logits(model, src, written[..., : step + 1]), relative=1e-5)


def test_memories_are_not_repeated_for_the_beams() -> None:
    cache = small().eval().start_decoding(torch.ones(2, 4, dtype=torch.int64), max_length=5, beam_size=7)
    assert {tuple(memory.keys.shape) for memory in cache.memories} == {(2, 4, 4, 4)}
    assert cache.past.shape == (2, 2, 14, 4, 5, 4)


def test_a_target_longer_than_the_model_is_refused_and_a_full_cache_is_our_bug() -> None:
    model, src = small().eval(), torch.ones(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^max_length \(33\) is above max_seq_len \(32\)$"):
        model.start_decoding(src, max_length=33)
    cache = model.start_decoding(src, max_length=1)
    model.decode_step(src[:, :1], cache)
    with pytest.raises(AssertionError, match="room for 1 tokens"):
        model.decode_step(src[:, :1], cache)
