"""A first SIGINT, SIGTERM or SIGHUP asks training to stop at the next step; a second one ends the process at once."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopNow(Exception):
    """Leaves whatever is going on between two steps, because a signal has asked for it."""


class StopRequest:
    """While entered, remembers the first signal; `signal` is its number, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.signal = None
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

    def poll(self) -> None:
        """Raise StopNow when a signal has come."""
        if self.signal is not None:
            raise StopNow

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
