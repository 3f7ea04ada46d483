"""A process of a training of which one is lost at a moment: `lost_peer.py MOMENT HOW RANK COMMAND ...`.

It is the one of this rank, at one of the moments below; it ends with an error, dies or freezes, or is asked to stop.
"""

import functools
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from pytorch_dl.doctor.faults import Call, announced
from pytorch_dl.entry import main
from pytorch_dl.training import validation
from pytorch_dl.training.checkpointer import Checkpointer
from pytorch_dl.training.peers import GradientSum

HALF_WRITTEN = 20  # calls to the file system, of some sixty of a save


def in_a_step(lose: Any) -> None:
    """In its fifth, when the gradients are computed and not exchanged."""
    spread, left = GradientSum.spread, iter(range(4))

    def losing(total: GradientSum) -> None:
        if next(left, None) is None:
            lose()
        spread(total)

    GradientSum.spread = losing


def in_a_save(lose: Any) -> None:
    """In its second: the first process when the checkpoint is half written, another one while that writes."""
    save, left = Checkpointer.save, iter(range(1))

    def at_call(call: Call) -> None:
        if call.number == HALF_WRITTEN:
            lose()

    def losing(checkpoints: Checkpointer, state: Any) -> None:
        if next(left, None) is not None:
            return save(checkpoints, state)
        if not checkpoints.peers.is_first:
            lose()
        with announced(at_call):
            save(checkpoints, state)

    Checkpointer.save = losing


def in_a_validation(lose: Any) -> None:
    """In its second, behind the first batch."""
    shared_batches, left = validation.shared_batches, iter(range(1))

    def losing(*given: Any, **options: Any) -> Iterator[Any]:
        is_it = next(left, None) is None
        for batch in shared_batches(*given, **options):
            yield batch
            if is_it:
                lose()

    validation.shared_batches = losing


MOMENTS = {"step": in_a_step, "save": in_a_save, "validation": in_a_validation}


def fail() -> None:
    raise RuntimeError("an error of one process")


WAYS = {"error": fail} | {
    way: functools.partial(signal.raise_signal, signal.Signals[way]) for way in ("SIGKILL", "SIGSTOP", "SIGTERM")
}


if __name__ == "__main__":
    moment, how, rank, *sys.argv[1:] = sys.argv[1:]
    if rank == os.environ["RANK"]:
        MOMENTS[moment](WAYS[how])
    main()
