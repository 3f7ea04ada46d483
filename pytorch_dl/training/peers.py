"""The processes that train together, one for each device: what they share out, add up and agree on.

torchrun starts them and tells each its rank. A step's batches are a list that does not depend on how many processes
there are; each takes some of them, and their gradients are added in the order of the list. So any number of processes
makes the same bits. What crosses between them is tensors and JSON. Alone, nothing does.

Shapes: W processes, P numbers of all gradients, N parameters.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pytorch_dl.errors import ConfigError, PeerLostError
from pytorch_dl.training.heartbeat import Heartbeat
from pytorch_dl.training.meeting import meet

LONGEST_WAIT = timedelta(hours=12)  # for a process that prepares text, say; one that is lost shows by its heartbeat


class Peers:
    """All processes of a training, seen from one of them; without arguments, the only one."""

    def __init__(self, rank: int = 0, size: int = 1, *, device: torch.device | str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, torch.device(device)
        self.heartbeat: Heartbeat | None = None

    @classmethod
    def present(cls, device: torch.device | str = "cpu") -> Self:
        """Those of torch's process group, where there is one."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), device=device)

    @property
    def is_first(self) -> bool:
        """Whether it is this process that writes files and speaks."""
        return self.rank == 0

    def is_mine(self, slot: int) -> bool:
        """Whether the batch at this place of a step's list falls to this process."""
        return slot % self.size == self.rank

    def add_up(self, numbers: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            with self.together():
                dist.all_reduce(numbers)
        return numbers

    def tell(self, value: Any) -> Any:
        """What the first process says, which must be JSON; the others' own values are not looked at."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.is_first else b""
        length = torch.tensor([len(text)], device=self.device)
        with self.together():
            dist.broadcast(length, 0)
            content = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
            if self.is_first:
                content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            dist.broadcast(content, 0)
        return json.loads(bytes(content.tolist()))

    def in_turn(self, work: Callable[[], Any]) -> Any:
        """Let the first process do what the others then find done; returns what this process's own call returned."""
        done = work() if self.is_first else None
        self.wait()
        return done if self.is_first else work()

    def wait(self) -> None:
        """Until all are here."""
        self.add_up(torch.zeros(1, device=self.device)).item()  # the host too, not only the device's stream

    def refuse_difference(self, own: Mapping[str, Any], *, what: str) -> None:
        """Raise on all processes when a value of `own`, which must be JSON, is not the first process's."""
        firsts = self.tell(dict(own))
        mine = json.loads(json.dumps(dict(own)))
        different = [name for name in sorted(firsts.keys() | mine.keys()) if firsts.get(name) != mine.get(name)]
        differ = torch.zeros(self.size, device=self.device)
        differ[self.rank] = len(different)
        ranks = self.add_up(differ).nonzero().flatten().tolist()
        if different:
            name = different[0]
            raise ConfigError(
                f"{what}: {name} is {mine.get(name)!r} on rank {self.rank} and {firsts.get(name)!r} on rank 0",
                fix="start all processes with the same command, files and versions",
            )
        if ranks:
            raise ConfigError(
                f"{what}: not the same on rank {ranks[0]} as on rank {self.rank}",
                fix="start all processes with the same command, files and versions",
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell of a peer that is gone, rather than of a connection."""
        try:
            yield
        except RuntimeError as error:
            lost = self.heartbeat.who_is_lost() if self.heartbeat else None
            if not lost and (self.heartbeat or not isinstance(error, dist.DistError)):
                raise  # all are there, or it is not about them: it was something else
            raise PeerLostError(
                f"rank {self.rank} lost {lost or 'another process'} ({str(error).splitlines()[0][:120]})",
                fix="start all processes again: training goes on from the last checkpoint",
            ) from error


ALONE = Peers()


class GradientSum:
    """The gradients of a step, of all batches in the order of the list, whichever process computed them.

    Each process adds up one part of all parameters. What it adds comes batch by batch and in order, as it would in one
    process; to exchange parts costs no more than to reduce all of them at once. With the gradients go as many flags as
    there are parameters: one that no batch has a gradient of has none afterwards, and optimizers leave it alone.
    """

    def __init__(self, peers: Peers, parameters: Sequence[Tensor]) -> None:
        self.peers, self.parameters = peers, [p for p in parameters if p.requires_grad]
        self._part: Tensor | None = None  # ((P + N) / W,), padded
        self._own = [False] * len(self.parameters)  # of which a batch of this process has had a gradient

    def add_round(self, slots: int) -> None:
        """Take in the gradients of one batch of each of the first `slots` processes, which then have none."""
        size = self.peers.size
        own = self._flat()
        received = torch.empty_like(own)
        with self.peers.together():
            dist.all_to_all_single(received, own)
        for gradient in received.view(size, -1)[:slots]:
            self._part = gradient.clone() if self._part is None else self._part.add_(gradient)

    def spread(self) -> None:
        """Give each parameter the sum."""
        assert self._part is not None, "no batch was added"
        whole = self._part.new_empty(self.peers.size * self._part.numel())
        with self.peers.together():
            dist.all_gather(list(whole.chunk(self.peers.size)), self._part)
        sizes = [parameter.numel() for parameter in self.parameters]
        *sums, flags, _ = torch.split(whole, [*sizes, len(sizes), len(whole) - sum(sizes) - len(sizes)])
        # To read the flags waits for the device: only where it is not known from the own batches what they say.
        present = self._own if all(self._own) else flags.ne(0).tolist()
        for parameter, flat, has_gradient in zip(self.parameters, sums, present, strict=True):
            if not has_gradient:
                continue
            gradient = flat.view(parameter.shape).to(parameter.dtype)
            # Fused optimizers take numbers as they lie.
            parameter.grad = gradient if parameter.is_contiguous() else torch.empty_like(parameter).copy_(gradient)
        self._part, self._own = None, [False] * len(self.parameters)

    def _flat(self) -> Tensor:
        """All gradients of this process and its flags in one row (P + N,), padded to W equal parts."""
        present = [parameter.grad is not None for parameter in self.parameters]
        self._own = [before or now for before, now in zip(self._own, present, strict=True)]
        row = [
            # Where there is none, what changes nothing that it is added to: 0.0 would make a 0.0 of -0.0.
            torch.full_like(p, -0.0).flatten() if p.grad is None else p.grad.flatten().to(p.dtype)
            for p in self.parameters
        ]
        for parameter in self.parameters:
            parameter.grad = None
        row.append(torch.tensor(present, dtype=row[0].dtype).to(row[0].device, non_blocking=True))
        missing = -sum(map(torch.numel, row)) % self.peers.size
        return torch.cat([*row, row[0].new_zeros(missing)])


def was_restarted(peers: Peers) -> bool:
    """Whether torchrun has started the processes again, after one on any machine had failed."""
    count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    return bool(peers.add_up(torch.tensor([count], device=peers.device)).item())


@contextmanager
def joined(device: torch.device) -> Iterator[Peers]:
    """The processes that torchrun started, for as long as the context lasts; this one alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        store, rank, size = next(rendezvous("env://"))
        place = meet(store, rank=rank, size=size)
    except dist.DistNetworkError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigError(
            f"the processes cannot meet at {address} ({str(error).splitlines()[0][:120]})",
            fix="give torchrun another --master-port, or end what uses this one",
        ) from error
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=PrefixStore(place, store), rank=rank, world_size=size, timeout=LONGEST_WAIT)
    peers = Peers(rank, size, device=device)
    # Over a connection of its own: the group's is locked while it waits for others in it, and no beat would go out.
    peers.heartbeat = Heartbeat(PrefixStore(f"{place}/heartbeat", store.clone()), rank=rank, size=size)
    try:
        with peers.heartbeat:
            yield peers
            peers.wait()  # who leaves is missed
        peers.wait()  # until nobody asks the store any more: with the process that keeps it, it goes
    finally:
        dist.destroy_process_group()
