"""The mask rule against loops over its words."""

import itertools

import pytest
import torch

from pytorch_dl.models.masks import additive, padding_segments, segment_mask, segment_positions

PACKED = torch.tensor([[1, 1, 2, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]])
SOURCE = torch.tensor([[1, 2, 2, 3, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", [PACKED, SOURCE], ids=["self", "cross"])
def test_a_token_attends_to_its_own_pair_and_padding_anywhere(keys: torch.Tensor, causal: bool) -> None:
    mask = segment_mask(PACKED, keys, causal=causal)
    assert mask.shape == (3, 1, 8, keys.size(1))
    for b, t, s in itertools.product(*map(range, (3, 8, keys.size(1)))):
        own = PACKED[b, t] == keys[b, s] or PACKED[b, t] == 0
        assert mask[b, 0, t, s] == (own and (s <= t or not causal)), (b, t, s)


def test_no_token_of_a_row_is_left_without_a_key() -> None:
    assert segment_mask(PACKED, PACKED, causal=True).any(-1).all()
    assert segment_mask(PACKED, SOURCE).any(-1).all()


def test_no_token_of_a_pair_attends_to_padding() -> None:
    mask = segment_mask(PACKED, PACKED)
    real, padding = PACKED[0] > 0, PACKED[0] == 0
    assert not mask[0, 0][real][:, padding].any()


def test_a_bias_is_0_to_attend_and_minus_infinity_not_to() -> None:
    bias = additive(torch.tensor([True, False]), torch.bfloat16)
    assert bias.dtype == torch.bfloat16
    assert bias.tolist() == [0.0, float("-inf")]


def test_padding_is_what_follows_the_last_token() -> None:
    rows = torch.tensor([[5, 6, 7, 9], [5, 6, 9, 9], [9, 5, 9, 9], [5, 9, 6, 9], [9, 9, 9, 9]])
    assert padding_segments(rows, 9).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_positions_restart_with_each_pair() -> None:
    assert segment_positions(PACKED).tolist() == [
        [0, 1, 0, 1, 2, 0, 0, 1],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 7],
    ]
    assert segment_positions(torch.tensor([[1]])).tolist() == [[0]]
