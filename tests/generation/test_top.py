"""The largest values against a stable sort."""

import pytest
import torch

from pytorch_dl.generation.top import highest, top


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("size", [3, 20, 100, 1003])
@pytest.mark.parametrize("count", [1, 4, 30])
@pytest.mark.parametrize("levels", [1, 2, 7, 1000, 10**6])
def test_top_equals_a_stable_sort_of_all_beams_together(size, count, levels, beams):
    random = torch.Generator().manual_seed(size)
    values = torch.randint(levels, (6, beams, size), generator=random).float()
    values[3] = -torch.inf
    values[4, :, ::2] = -torch.inf
    for offsets in (
        None,
        torch.randint(-5, 5, (6, beams), generator=random).float().index_fill_(0, torch.tensor([5]), -torch.inf),
    ):
        best, place = top(values, count, offsets)
        whole = values if offsets is None else values + offsets.unsqueeze(-1)
        for row, numbers in enumerate(whole.flatten(1)):
            expected = sorted(range(beams * size), key=lambda i: (-numbers[i], i))[:count]
            assert place[row].tolist() == expected
            assert best[row].tolist() == numbers[expected].tolist()


@pytest.mark.parametrize("size", [5, 128, 130, 640])
@pytest.mark.parametrize("levels", [1, 2, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lowest", [-300, -100, 0, 1])
def test_the_highest_is_the_first_of_equals(size, levels, lowest, dtype):
    random = torch.Generator().manual_seed(size)
    values = torch.randint(lowest, lowest + levels, (6, 2, size), generator=random).to(dtype)
    values[3] = -torch.inf
    best, place = highest(values)
    for row, numbers in enumerate(values.view(12, size).tolist()):
        assert (best.flatten()[row], place.flatten()[row]) == (max(numbers), numbers.index(max(numbers)))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_that_is_not_a_number_shows(sign, dtype):
    values = torch.randn(3, 1, 40).to(dtype)
    values[1] = torch.tensor(torch.nan).copysign(torch.tensor(sign))
    best, _ = highest(values)
    assert best.isnan().flatten().tolist() == [False, True, False]
