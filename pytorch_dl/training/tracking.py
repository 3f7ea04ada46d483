"""Trackers: where curves, texts and pictures go besides the files, each called from a thread of its own.

A tracker may be slow, fail or hang: training goes on without it, and one warning tells why.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from queue import Full, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:  # each command asks at its end whether a tracker hangs, and most know of no pictures
    from PIL.Image import Image

CALLS_WAITING, CLOSING_SECONDS = 1000, 10.0  # for a tracker, until it is given up
THREAD = "tracker"  # begins the name of each
Value: TypeAlias = "float | str | Image"


class Tracker(Protocol):
    """Three methods, all called from one thread, which is not that of training."""

    def begin(self, settings: Mapping[str, Any], *, first_step: int) -> None:
        """Training begins or goes on with this step: what was logged there or later is out of date.

        The settings have dotted names, such as model.d_model. It may be called again after `close`.
        """

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """A number is a point of a curve, a text or a picture is a sample."""

    def close(self) -> None:
        """Training has ended, or is about to go back to an earlier step."""


Call = Callable[[Tracker], None]


def is_any_at_work() -> bool:
    """Whether a tracker has not come back from a call: once training has ended, one that hangs."""
    return any(thread.name.startswith(THREAD) for thread in threading.enumerate())


class Trackers:
    """Those of a training that have not failed so far."""

    def __init__(self, trackers: Iterable[Tracker], settings: Mapping[str, Any], *, first_step: int) -> None:
        self._threads = [TrackerThread(tracker) for tracker in trackers]
        self._settings = settings
        self._begin(first_step)

    def log(self, step: int, values: "Mapping[str, Value | Callable[[], Image]]") -> None:
        """Pass values on; pictures that are still to be drawn are drawn in the tracker's thread."""
        self._call(lambda tracker: tracker.log(step, {n: v() if callable(v) else v for n, v in values.items()}))

    def go_back(self, *, first_step: int) -> None:
        """Let them close, and begin again with this step: each in its thread, which nobody waits for."""
        self._call(lambda tracker: tracker.close())
        self._begin(first_step)

    def close(self) -> None:
        """Wait until all are done, but not for long."""
        self._best_effort(TrackerThread.close)
        self._threads.clear()

    def _begin(self, first_step: int) -> None:
        self._call(lambda tracker: tracker.begin(self._settings, first_step=first_step))

    def _call(self, call: Call) -> None:
        self._best_effort(lambda thread: thread.call(call))

    def _best_effort(self, action: Callable[["TrackerThread"], None]) -> None:
        """One that fails is dropped with one warning."""
        for thread in list(self._threads):
            try:
                action(thread)
            except Exception as error:
                self._threads.remove(thread)
                warnings.warn(f"{thread.name} failed and is switched off: {error}", stacklevel=2)


class TrackerThread:
    """Calls a tracker from a thread of its own: one that is slow, or hangs, holds nobody up."""

    def __init__(self, tracker: Tracker) -> None:
        self.name = type(tracker).__name__
        self._calls: Queue[Call | None] = Queue(CALLS_WAITING)
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, args=(tracker,), name=f"{THREAD} {self.name}", daemon=True)
        self._thread.start()

    def call(self, call: Call | None) -> None:
        """Let the tracker be called, in turn, or with None let the thread end.

        Raises what an earlier call raised, and TimeoutError where none is answered any more.
        """
        if self._error:
            raise self._error
        try:
            self._calls.put_nowait(call)
        except Full:
            raise TimeoutError(f"it has not answered the last {CALLS_WAITING:,} calls") from None

    def close(self) -> None:
        """Wait until all calls are answered, but not for long."""
        self.call(lambda tracker: tracker.close())
        self.call(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"it has not answered for {CLOSING_SECONDS:g} seconds")
        if self._error:
            raise self._error

    def _work(self, tracker: Tracker) -> None:
        try:
            while call := self._calls.get():
                call(tracker)
        except BaseException as error:  # also what a library means to end the program with
            self._error = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__} {error}")
