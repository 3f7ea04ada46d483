"""The largest values against a stable sort."""

import pytest
import torch

from pytorch_dl.generation.top import top


@pytest.mark.parametrize("size", [3, 20, 100, 1003])
@pytest.mark.parametrize("count", [1, 4, 30])
@pytest.mark.parametrize("levels", [1, 2, 7, 1000, 10**6])
def test_top_equals_a_stable_sort(size, count, levels):
    values = torch.randint(levels, (6, size), generator=torch.Generator().manual_seed(size)).float()
    values[3] = -torch.inf
    values[4, ::2] = -torch.inf
    best, index = top(values, count)
    for row in range(6):
        expected = sorted(range(size), key=lambda i: (-values[row, i], i))[:count]
        assert index[row].tolist() == expected
        assert best[row].tolist() == values[row, expected].tolist()
