"""Hashed dropout: the hash against Python's integers, its statistics, and that it belongs to the pair."""

import itertools
import math

import pytest
import torch
from small_models import Pair, random_pairs, sides, small
from torch import Tensor
from torch.nn import functional as F

from pytorch_dl.models.dropout import Dropout, mix, mix_number, token_keys

TOKENS, FEATURES = 64, 64
RATES = [0.1, 0.3, 0.5]


def dropout(x: Tensor, p: float, *, keys: Tensor | None, site: int = 0, training: bool = True) -> Tensor:
    """What one dropout of x's width makes of it."""
    out: Tensor = Dropout(p, x.size(-1), site=site).train(training)(x, keys)
    return out


def kept(p: float, *, step: int = 0, side: int = 0, pair: int = 5, site: int = 0, seed: int = 1) -> Tensor:
    """Which features (T, d) of one pair's tokens are kept."""
    keys = token_keys(mix_number(seed, step, side), torch.full((1, TOKENS), pair), torch.arange(TOKENS).unsqueeze(0))
    return dropout(torch.ones(1, TOKENS, FEATURES), p, keys=keys, site=site)[0] != 0


def assert_unrelated(a: Tensor, b: Tensor, what: str) -> None:
    """The correlation of two masks is within 4 standard errors of 0."""
    correlation = torch.corrcoef(torch.stack((a.flatten().double(), b.flatten().double())))[0, 1].item()
    assert abs(correlation) < 4 / math.sqrt(a.numel()), f"{what}: correlation {correlation:.4f}"


def splitmix64(x: int) -> int:
    """The finaliser of Steele et al. 2014 on unsigned 64-bit integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def test_the_hash_is_splitmix64() -> None:
    numbers = [0, 1, -1, 2**63 - 1, -(2**63), *torch.randint(-(2**62), 2**62, (200,)).tolist()]
    assert [value % 2**64 for value in mix(torch.tensor(numbers)).tolist()] == [splitmix64(n % 2**64) for n in numbers]


def test_a_hash_of_numbers_depends_on_each_and_on_their_order() -> None:
    hashes = [mix_number(*numbers) for numbers in itertools.product(range(4), repeat=3)]
    assert len(set(hashes)) == 64
    assert all(-(2**63) <= value < 2**63 for value in hashes)
    assert mix_number(2**63 - 1, 5) == mix_number(2**63 - 1, 5)


@pytest.mark.parametrize("p", RATES)
def test_the_share_kept_is_1_minus_p_for_every_feature_and_position(p: float) -> None:
    masks = torch.stack([kept(p, pair=pair) for pair in range(200)])  # (200, T, d)
    for counts in (masks.sum((0, 1)), masks.sum((0, 2)), masks.sum((1, 2)), masks.sum(0).flatten()):
        trials = masks.numel() // counts.numel()
        chi_square = ((counts - trials * (1 - p)) ** 2).sum().item() / (trials * p * (1 - p))
        freedom = counts.numel()
        assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom), (chi_square, freedom)


@pytest.mark.parametrize("p", RATES)
def test_the_mean_stays(p: float) -> None:
    keys = token_keys(3, torch.arange(100).unsqueeze(1).expand(100, TOKENS), torch.arange(TOKENS).expand(100, TOKENS))
    out = dropout(torch.ones(100, TOKENS, FEATURES), p, keys=keys)
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    assert abs(out.mean().item() - 1) < 5 * math.sqrt(p / (1 - p) / out.numel())


@pytest.mark.parametrize("p", RATES)
def test_masks_are_unrelated(p: float) -> None:
    masks = torch.stack([kept(p, pair=pair) for pair in range(40)])
    for distance in (1, 2, 3, 4, 8):
        assert_unrelated(masks[..., distance:], masks[..., :-distance], f"features {distance} apart")
        assert_unrelated(masks[:, distance:], masks[:, :-distance], f"positions {distance} apart")
        assert_unrelated(masks[distance:], masks[:-distance], f"pairs {distance} apart")
    for change in ({"step": 1}, {"side": 1}, {"site": 1}, {"site": 2}, {"seed": 2}, {"seed": 0, "step": 1}):
        others = torch.stack([kept(p, pair=pair, **change) for pair in range(40)])
        assert_unrelated(masks, others, str(change))
        assert_unrelated(masks[1:], others[:-1], f"{change} and the pair before")
        assert_unrelated(masks[:, 1:], others[:, :-1], f"{change} and the position before")


def test_parities_of_several_features_are_unrelated() -> None:
    signs = torch.stack([kept(0.5, pair=pair) for pair in range(60)]).double() * 2 - 1  # (60, T, d)
    for offsets in ((0, 1, 2), (0, 1, 2, 3), (0, 4, 8), (0, 4, 8, 12), (0, 1, 4, 5), (0, 3, 4), (0, 16, 32, 48)):
        product = torch.stack([signs.roll(offset, dims=-1) for offset in offsets]).prod(0)
        assert abs(product.mean().item()) < 4 / math.sqrt(product.numel()), offsets
    for product in (
        signs[:, 1:] * signs[:, :-1] * signs[:, 1:].roll(1, dims=-1),
        signs[1:] * signs[:-1] * signs[1:].roll(4, -1),
    ):
        assert abs(product.mean().item()) < 4 / math.sqrt(product.numel())


@pytest.mark.parametrize("lane", range(4))
def test_each_token_is_dropped_in_its_own_way(lane: int) -> None:
    """Each number must depend on many bits of the key, or tokens would share masks."""
    keys = token_keys(5, torch.arange(4000).unsqueeze(1).expand(4000, 25), torch.arange(25).expand(4000, 25))
    masks = dropout(torch.ones(4000, 25, 256), 0.5, keys=keys)[..., lane::4] != 0
    numbers = (masks[..., :62].long() << torch.arange(62)).sum(-1)
    assert numbers.unique().numel() == numbers.numel() == 100_000


def test_any_two_features_are_unrelated() -> None:
    keys = token_keys(7, torch.arange(2000).unsqueeze(1).expand(2000, 50), torch.arange(50).expand(2000, 50))
    signs = dropout(torch.ones(2000, 50, 512), 0.5, keys=keys).flatten(0, 1) - 1  # (100,000, 512) of -1 and 1
    correlations = (signs.T @ signs / signs.size(0)).fill_diagonal_(0.0)
    assert correlations.abs().max().item() < 6 / math.sqrt(signs.size(0))  # 131,000 of them


def test_no_two_dropouts_of_a_model_share_their_bits() -> None:
    masks: list[Tensor] = []
    model = small(dropout=0.3)

    def recorded(dropout: Dropout, inputs: tuple[Tensor, Tensor]) -> None:
        masks.append(dropout.forward(torch.ones_like(inputs[0]), inputs[1])[..., :16] != 0)

    tokens = list(range(1, 9))
    src, tgt, _ = sides([[Pair(number, tokens, tokens, tokens)] for number in range(100)], src_width=8, tgt_width=8)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_pre_hook(recorded)
    model.hidden(src, tgt)
    # Two embeddings; inner features and residuals of two encoder layers (3 each) and two decoder layers (4 each).
    assert len(masks) == 2 + 2 * 3 + 2 * 4
    for (i, a), (j, b) in itertools.combinations(enumerate(masks), 2):
        assert_unrelated(a, b, f"dropouts {i} and {j}")


@pytest.mark.parametrize("positions", ["rope", "sinusoidal"])
def test_a_pair_is_dropped_alike_in_any_row(positions: str) -> None:
    model = small(dropout=0.4, positions=positions)
    pairs = random_pairs(3, longest=5)
    packed_src, packed_tgt, _ = sides([pairs], src_width=16, tgt_width=16)
    alone_src, alone_tgt, _ = sides([[pairs[1]]], src_width=9, tgt_width=9)
    masks = []
    for side, index in ((packed_src, 2), (alone_src, 1), (packed_tgt, 2), (alone_tgt, 1)):
        assert side.keys is not None
        out = dropout(torch.ones(1, side.tokens.size(1), 16), 0.4, keys=side.keys, site=3)
        masks.append(out[side.segments == index] != 0)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0][:1], masks[2][:1])
    packed = model.hidden(packed_src, packed_tgt)[packed_tgt.segments == 2]
    alone = model.hidden(alone_src, alone_tgt)[alone_tgt.segments == 1]
    assert torch.allclose(packed, alone, atol=1e-5)


def test_a_mask_does_not_depend_on_the_batch_or_the_width() -> None:
    keys = token_keys(9, torch.arange(6).view(3, 2), torch.arange(2).expand(3, 2))
    whole = dropout(torch.ones(3, 2, 10), 0.5, keys=keys, site=1)
    assert torch.equal(dropout(torch.ones(1, 2, 10), 0.5, keys=keys[1:2], site=1), whole[1:2])
    assert torch.equal(dropout(torch.ones(3, 2, 7), 0.5, keys=keys, site=1), whole[..., :7])


def test_the_gradient_passes_where_the_value_does() -> None:
    x = torch.randn(2, 3, 8, requires_grad=True)
    keys = token_keys(1, torch.zeros(2, 3, dtype=torch.int64), torch.arange(6).view(2, 3))
    out = dropout(x, 0.3, keys=keys)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient != 0, out != 0)
    assert torch.allclose(out, x * gradient)
    assert 0 < (gradient == 0).sum() < gradient.numel()


def test_without_training_or_rate_nothing_happens() -> None:
    x, keys = torch.randn(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64)
    assert dropout(x, 0.5, training=False, keys=keys) is x
    assert dropout(x, 0.0, keys=keys) is x


def test_without_keys_it_is_that_of_torch() -> None:
    x = torch.randn(3, 4, 5)
    torch.manual_seed(3)
    ours = dropout(x, 0.5, keys=None)
    torch.manual_seed(3)
    assert torch.equal(ours, F.dropout(x, 0.5))


@pytest.mark.parametrize("p", [1e-6, 0.5, 0.99, 0.9999999])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_rate_and_type_works(p: float, dtype: torch.dtype) -> None:
    keys = token_keys(1, torch.zeros(4, 50, dtype=torch.int64), torch.arange(200).view(4, 50))
    out = dropout(torch.ones(4, 50, 64, dtype=dtype), p, keys=keys)
    assert out.dtype == dtype
    assert abs((out != 0).float().mean().item() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / out.numel()) + 2**-30


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("features", [10, 64])
def test_compiled_masks_are_the_same(features: int) -> None:
    keys = token_keys(4, torch.arange(32).view(4, 8), torch.arange(8).expand(4, 8))
    x = torch.randn(4, 8, features)

    masked = Dropout(0.3, features, site=2)
    assert torch.equal(torch.compile(masked, fullgraph=True)(x, keys), masked(x, keys))
    compiled_keys = torch.compile(token_keys, fullgraph=True)(4, keys, keys)
    assert torch.equal(compiled_keys, token_keys(4, keys, keys))
