"""Each bit of a checkpoint, flipped alone: it is never gone on from."""

import random

import torch
from torch import nn

from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.train_state import TrainState


def test_d10_every_single_bit(case, tmp_path):
    """Of all files, the manifest among them: the one before is used, and the damaged one is named."""
    model = nn.Linear(14, 14)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 14)).sum().backward()
    optimizer.step()
    for step in (1, 2):
        state = TrainState(step=step, best_value=0.5).to_json()
        newest = ckpt.save_checkpoint(tmp_path, step, ckpt.contents(model, optimizer, None), state=state)
    files = {path: path.read_bytes() for path in sorted(newest.iterdir())}
    bits = [(path, bit) for path, content in files.items() for bit in range(8 * len(content))]
    assert len(files) == 4 and 3500 < len(bits) // 8 < 4600
    said: list[str] = []
    times = case.size(1000, len(bits))
    for path, bit in random.Random(10).sample(bits, times):
        content = bytearray(files[path])
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert ckpt.newest_valid(tmp_path, said.append) == tmp_path / ckpt.name_of(1), f"bit {bit} of {path.name}"
        path.write_bytes(files[path])
    assert len(said) == times and all(line.startswith(f"skipping checkpoint {newest.name}: ") for line in said)
    assert ckpt.newest_valid(tmp_path, said.append) == newest
    case.survived(times, injected="each single bit of a checkpoint of 4 KB, flipped", lost="nothing: 0 accepted")
