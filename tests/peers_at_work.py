"""What each process of tests/training/test_peers.py does: exchanges, whose results rank 0 writes to the file given."""

import json
import sys
from pathlib import Path

import torch

from pytorch_dl.errors import ConfigError
from pytorch_dl.training.peers import GradientSum, joined


def main() -> None:
    """Exchange numbers in every way that there is."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as peers:
        found: dict[str, object] = {"size": peers.size}
        found["sum"] = peers.add_up(torch.tensor([float(peers.rank), 1.0])).tolist()
        found["told"] = peers.tell({"from": peers.rank, "text": "ä\n"})
        found["mine"] = [slot for slot in range(7) if peers.is_mine(slot)]
        peers.refuse_difference({"same": [1, 2.5, None]}, what="nothing")
        try:
            peers.refuse_difference({"seed": peers.rank // 2, "other": 1}, what="the processes differ")
        except ConfigError as error:
            found["refused"] = str(error)
        for slots in (1, 4, 5):
            found[f"gradients of {slots}"] = gradients(peers, slots)
        every = [None] * peers.size
        for rank in range(peers.size):
            text = json.dumps(found).encode().ljust(20000)
            content = torch.tensor(list(text)) * (peers.rank == rank)
            every[rank] = json.loads(bytes(peers.add_up(content).tolist()))
        if peers.is_first:
            Path(sys.argv[1]).write_text(json.dumps(every))


def gradients(peers, slots: int) -> list[list[float]]:
    """The sum of the gradients of so many batches, which are numbers of very different size."""
    weights = [torch.zeros(3, 2, requires_grad=True), torch.zeros(5, requires_grad=True)]
    total = GradientSum(peers, weights)
    for start in range(0, slots, peers.size):
        now = range(start, min(slots, start + peers.size))
        for slot in filter(peers.is_mine, now):
            for weight, gradient in zip(weights, gradients_of(slot, weights), strict=True):
                weight.grad = gradient
        total.add_round(len(now))
        assert all(weight.grad is None for weight in weights)
    total.spread()
    return [weight.grad.flatten().tolist() for weight in weights]


def gradients_of(slot: int, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """The gradients of one batch."""
    generator = torch.Generator().manual_seed(slot)
    return [torch.randn(weight.shape, generator=generator) * 10.0 ** (3 * (slot % 3)) for weight in weights]


if __name__ == "__main__":
    main()
