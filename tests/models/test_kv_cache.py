"""What decoding remembers: by hand, and cached decoding against decoding everything anew."""

import itertools

import pytest
import torch
from small_models import VOCAB, assert_same, decode_step, small
from torch import Tensor

from pytorch_dl.models.kv_cache import DecoderCache, KeyValue
from pytorch_dl.models.optimized_transformer import OptimizedTransformer

VARIANTS = [
    dict(zip(("positions", "norm_first", "n_kv_heads", "attention"), values, strict=True))
    for values in itertools.product(("rope", "sinusoidal", "learned"), (True, False), (None, 2, 1), ("sdpa", "plain"))
]


def cache_of(sentences: int, beams: int, *, source: int = 1) -> DecoderCache:
    """An empty cache of 2 layers, whose memories hold the number of their sentence."""
    numbers = torch.arange(sentences, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, source, 1)
    memories = [KeyValue(numbers.clone(), numbers + 0.5) for _ in range(2)]
    return DecoderCache.empty(memories, torch.zeros(sentences, 1, 1, source), beams=beams, heads=1, head_dim=1)


def write(cache: DecoderCache, value: float) -> None:
    """A token in each beam, whose key is `value` + its row."""
    cache.begin_step()
    rows = torch.arange(cache.ancestry.size(0) * cache.ancestry.size(2)).view(-1, 1, cache.ancestry.size(2), 1) + value
    for index in range(2):
        cache.layer(index).extend(KeyValue(rows, -rows))
    cache.end_step()


def past(cache: DecoderCache, sentence: int, beam: int) -> list[float]:
    """The keys that a beam descends from, in both layers alike."""
    seen = cache.ancestry[sentence, 0, beam] == 0
    keys, values = (cache.past[1][kind, sentence, 0, seen, 0].tolist() for kind in (0, 1))
    assert keys == [-value for value in values] == cache.past[0][0, sentence, 0, seen, 0].tolist()
    return keys


def test_each_beam_sees_its_own_tokens() -> None:
    cache = cache_of(2, 3)
    for step in range(40):  # more than there is room for at first
        write(cache, 100.0 * step)
    for row in range(6):
        assert past(cache, row // 3, row % 3) == [100.0 * step + row for step in range(40)]
    assert cache.positions.tolist() == [[40], [40]] and cache.longest == 40


def test_beams_go_on_from_others_of_their_sentence() -> None:
    cache = cache_of(2, 3)
    write(cache, 0.0)
    cache.reorder(torch.tensor([[2, 2, 0], [1, 0, 1]]))
    write(cache, 100.0)
    cache.reorder(torch.tensor([[0, 0, 1], [2, 2, 2]]))
    assert [past(cache, 0, beam) for beam in range(3)] == [[2, 100], [2, 100], [2, 101]]
    assert [past(cache, 1, beam) for beam in range(3)] == [[4, 105]] * 3
    for step in range(2, 80):
        write(cache, 100.0 * step)
        cache.reorder(torch.zeros(2, 3, dtype=torch.int64))
    assert past(cache, 1, 2) == [4, 105, *(100.0 * step + 3 for step in range(2, 80))]
    assert cache.used < 3 * 80 / 2  # what no beam goes back to is forgotten


def test_sentences_stay_with_all_that_is_theirs() -> None:
    cache = cache_of(3, 2, source=2)
    cache.cross_bias[0, ..., 1:], cache.cross_bias[2, ..., 1:] = -torch.inf, -torch.inf
    write(cache, 0.0)
    cache.keep(torch.tensor([0, 2]))
    assert [past(cache, row // 2, row % 2) for row in range(4)] == [[0], [1], [4], [5]]
    assert [memory.keys.flatten().tolist() for memory in cache.memories] == [[0, 2], [0, 2]]  # and no padding
    assert [memory.values.flatten().tolist() for memory in cache.memories] == [[0.5, 2.5], [0.5, 2.5]]
    assert cache.cross_bias.tolist() == [[[[0.0]]], [[[0.0]]]]


def test_sentences_join_at_any_step() -> None:
    cache, other = cache_of(1, 2, source=3), cache_of(2, 2, source=2)
    write(cache, 0.0)
    cache.join(other)
    write(cache, 100.0)
    cache.join(cache_of(1, 2, source=4))
    write(cache, 200.0)
    assert [past(cache, 0, beam) for beam in range(2)] == [[0, 100, 200], [1, 101, 201]]
    assert [past(cache, 2, beam) for beam in range(2)] == [[104, 204], [105, 205]]
    assert past(cache, 3, 1) == [207]
    assert cache.positions.flatten().tolist() == [3, 2, 2, 1]
    assert cache.cross_bias.isinf().sum(-1).flatten().tolist() == [1, 2, 2, 0]
    assert cache.memories[1].keys[:, 0, :, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


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
    cache = model.start_decoding(src, beam_size=beams)
    written = torch.randint(1, VOCAB, (3, beams, 1))
    for step in range(steps):
        logits = decode_step(model, written[..., -1], cache)
        assert_same(logits, full_logits(model, src, written), relative=1e-12, what=step)
        if step in (2, 4):
            sentences = torch.tensor([0, 2]) if step == 2 else torch.tensor([1])
            cache.keep(sentences)
            src, written = src[sentences], written[sentences]
        order = torch.randint(0, beams, (written.size(0), beams))
        cache.reorder(order)
        written = written.gather(1, order.unsqueeze(-1).expand_as(written))
        written = torch.cat((written, torch.randint(1, VOCAB, (*written.shape[:2], 1))), dim=-1)
    assert cache.longest == steps


@torch.no_grad()
def test_cached_decoding_in_single_precision() -> None:
    model = small().eval()
    src = torch.randint(1, VOCAB, (2, 5))
    cache = model.start_decoding(src)
    written = torch.randint(1, VOCAB, (2, 1, 9))
    for step in range(9):
        logits = decode_step(model, written[..., step], cache)
        assert_same(logits, full_logits(model, src, written[..., : step + 1]), relative=1e-5)


@pytest.mark.usefixtures("float64")
@torch.no_grad()
@pytest.mark.parametrize(
    "variant", VARIANTS[::5], ids=lambda variant: "-".join(str(value) for value in variant.values())
)
def test_sentences_of_other_lengths_that_join_later_are_decoded_as_if_alone(variant: dict[str, object]) -> None:
    model = small(**variant).eval()
    sources = [torch.randint(1, VOCAB, (1, length)) for length in (4, 7, 2)]
    written = [torch.randint(1, VOCAB, (1, 2, 1)) for _ in sources]
    cache = model.start_decoding(sources[0], beam_size=2)
    present = 1
    for step in range(9):
        if step in (2, 5):
            cache.join(model.start_decoding(sources[present], beam_size=2))
            present += 1
        logits = decode_step(model, torch.cat([tokens[..., -1] for tokens in written[:present]]), cache)
        for row in range(present):
            expected = full_logits(model, sources[row], written[row])
            assert_same(logits[row : row + 1], expected, relative=1e-12, what=(step, row))
            written[row] = torch.cat((written[row], torch.randint(1, VOCAB, (1, 2, 1))), dim=-1)


def test_memories_are_not_repeated_for_the_beams() -> None:
    cache = small().eval().start_decoding(torch.ones(2, 4, dtype=torch.int64), beam_size=7)
    assert {tuple(memory.keys.shape) for memory in cache.memories} == {(2, 4, 4, 4)}


def test_a_target_longer_than_the_model_is_our_bug() -> None:
    model, src = small().eval(), torch.ones(1, 3, dtype=torch.int64)
    cache = model.start_decoding(src)
    for _ in range(model.max_seq_len):
        decode_step(model, src[:, :1], cache)
    with pytest.raises(AssertionError, match=r"at most max_seq_len \(32\) tokens"):
        decode_step(model, src[:, :1], cache)
