"""A process of a training in which some spoil their numbers: `spoilt_peers.py STEP RANKS FOLDER COMMAND ...`.

In this step the first batch of each of these processes has a row, in the output of the encoder, that is not a number.
Its pairs are written to FOLDER/RANK.json.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.entry import main
from pytorch_dl.training.step import Passes


def spoil(at_step: int, rank: int, told: Path) -> None:
    call = Passes.__call__

    def spoilt(passes: Passes, batch: Batch, *, step: int, slot: int, **how: Any) -> torch.Tensor:
        if step != at_step or slot != rank:
            return call(passes, batch, step=step, slot=slot, **how)
        row = len(batch.pair_ids) - 1
        told.write_text(json.dumps([pair for pair in batch.pair_ids[row].tolist() if pair >= 0]))
        hook = passes.model.encoder_norm.register_forward_hook(
            lambda module, given, made: made.index_fill(0, torch.tensor([row]), torch.nan),
            prepend=True,  # before what looks at the output
        )
        try:
            return call(passes, batch, step=step, slot=slot, **how)
        finally:
            hook.remove()

    Passes.__call__ = spoilt


if __name__ == "__main__":
    step, ranks, folder, *sys.argv[1:] = sys.argv[1:]
    own = os.environ["RANK"]
    if own in ranks:
        spoil(int(step), int(own), Path(folder) / f"{own}.json")
    main()
