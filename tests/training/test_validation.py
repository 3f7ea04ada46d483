"""The likelihood of each pair against that of the whole set, and of each pair alone."""

import pytest
import torch
from tiny import tiny_loader, tiny_model

from pytorch_dl.training import validation
from pytorch_dl.training.validation import pair_nll, validation_nll


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("rows", [1024, 7], ids=["at once", "in parts"])
def test_pairs_sum_to_the_whole(packed, rows, monkeypatch):
    monkeypatch.setattr(validation, "CHUNK_ROWS", rows)
    model = tiny_model().eval()
    nll, tokens = pair_nll(model, tiny_loader(24, packed=packed), pairs=24)
    total, count = validation_nll(model, tiny_loader(24, packed=packed), precision="fp32", poll=lambda: None)
    assert nll.sum().item() == pytest.approx(total, rel=1e-5) and tokens.sum().item() == count
    assert (tokens >= 1).all() and (nll > 0).all()


def test_each_pair_has_what_it_has_alone():
    model = tiny_model().eval()
    nll, tokens = pair_nll(model, tiny_loader(12, packed=True), pairs=12)
    alone, alone_tokens = pair_nll(model, tiny_loader(12, batch_size=1), pairs=12)
    torch.testing.assert_close(nll, alone, rtol=1e-5, atol=1e-5)
    assert tokens.tolist() == alone_tokens.tolist()


def test_pairs_that_are_left_out_have_no_token():
    nll, tokens = pair_nll(tiny_model().eval(), tiny_loader(5), pairs=7)
    assert tokens.tolist()[5:] == [0, 0] == nll.tolist()[5:]
