"""A first SIGINT, SIGTERM or SIGHUP asks training to stop at the next step; a second one ends the process at once.

What comes within two seconds is part of the first, whichever signal it is: Slurm and systemd signal every process of a
job, torchrun and `timeout` pass on what their children had already, and a closed terminal hangs up twice.
"""

import math
import os
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

from pytorch_dl.errors import Interrupted

ONE_REQUEST_SECONDS = 2.0


class StopNow(Exception):
    """Leaves whatever is going on between two steps, because a signal has asked for it."""


class StopRequest:
    """While entered, remembers the first signal; `signal` is its number, or None."""

    asked: ClassVar[float] = -math.inf  # when this process was last asked to stop, in training or outside

    def __init__(self) -> None:
        self.signal: int | None = None
        self.asked_by_another = False  # process of the training: then this one stops too
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.signal, self.asked_by_another = None, False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
                continue
            try:
                self._previous[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: its owner handles signals
                return self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    @staticmethod
    def is_repeated() -> bool:
        """Whether a signal that comes now is part of the last request; if not, it begins another."""
        now = time.monotonic()
        if now - StopRequest.asked < ONE_REQUEST_SECONDS:
            return True
        StopRequest.asked = now
        return False

    def poll(self) -> None:
        """Raise StopNow when a signal has come."""
        if self.signal is not None or self.asked_by_another:
            raise StopNow

    def as_error(self, step: int, *, folder: Path | None) -> Interrupted:
        """What to tell the user when training has stopped after `step`, which is saved in `folder` if there is one."""
        what = f"stopped by signal {self.signal} " if self.signal else "stopped as asked "
        if step == 0:
            return Interrupted(f"{what}before the first step; nothing had to be saved", fix="start it again")
        if not folder:
            return Interrupted(f"{what}at step {step:,}; nothing was saved, as there is no checkpoint_dir")
        run = folder.parent
        return Interrupted(
            f"{what}at step {step:,}, which is saved", where=str(run), fix=f"go on with `pytorch-dl resume {run}`"
        )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, StopRequest.asked = number, time.monotonic()
        elif not self.is_repeated():
            os._exit(128 + number)
