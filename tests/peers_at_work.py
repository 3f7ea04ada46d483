"""What each process of tests/training/test_peers.py does: exchanges, whose results rank 0 writes to the file given."""

import json
import sys
from pathlib import Path

import torch

from pytorch_dl.errors import ConfigError
from pytorch_dl.training.peers import GradientSum, joined

SIZES = ((3, 2), (5,), (2,), (4,))


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


def gradients(peers, slots: int) -> list[list[int] | None]:
    """The bits of the sum of the gradients of so many batches, which are numbers of very different size."""
    weights = [torch.zeros(size, requires_grad=True) for size in SIZES]
    total = GradientSum(peers, weights)
    for start in range(0, slots, peers.size):
        now = range(start, min(slots, start + peers.size))
        for slot in filter(peers.is_mine, now):
            for weight, gradient in zip(weights, gradients_of(slot), strict=True):
                weight.grad = gradient
        total.add_round(len(now))
        assert all(weight.grad is None for weight in weights)
    total.spread()
    return [bits(weight.grad) for weight in weights]


def gradients_of(slot: int) -> list[torch.Tensor | None]:
    """The gradients of one batch: of the third weight only some have one, of the last none."""
    generator = torch.Generator().manual_seed(slot)
    first, second = (torch.randn(size, generator=generator) * 10.0 ** (3 * (slot % 3)) for size in SIZES[:2])
    return [first, second, torch.full(SIZES[2], -0.0) if slot % 3 == 1 else None, None]


def bits(gradient: torch.Tensor | None) -> list[int] | None:
    """To tell 0.0 from -0.0."""
    return None if gradient is None else gradient.flatten().view(torch.int32).tolist()


if __name__ == "__main__":
    main()
