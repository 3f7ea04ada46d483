"""What each process of tests/training/test_peers.py trains: a model of which not every batch uses every weight."""

import json
import sys
from pathlib import Path

import torch
from tiny import tiny_model, tiny_trainer
from torch import Tensor, nn

from pytorch_dl.training.peers import joined


class Sometimes(nn.Module):
    """A layer's feed-forward network, with a factor for batches whose width is odd, and weights that no batch uses."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.sometimes, self.unused = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, *, keys: Tensor | None = None) -> Tensor:
        out = self.inner(x, keys=keys)
        return out * self.sometimes if x.size(1) % 2 else out


def main() -> None:
    """Train, and write down the numbers of every weight and how many steps its optimizer's state has seen."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as peers:
        model = tiny_model()
        model.encoder_layers[0].feed_forward = Sometimes(model.encoder_layers[0].feed_forward)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        settings = {"max_steps": 5, "gradient_accumulation_steps": 3}
        tiny_trainer(model=model, optimizer=optimizer, settings=settings, peers=peers, val_dataloader=None).train()
        found = {
            name.removeprefix("encoder_layers.0.feed_forward."): {
                "bits": parameter.flatten().tolist(),
                "steps": int(optimizer.state.get(parameter, {}).get("step", 0)),
            }
            for name, parameter in model.named_parameters()
        }
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
