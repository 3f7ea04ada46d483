"""Each process of a training counts up in a store that all see, and watches the others' counts.

A process that has died or stands still would leave the others waiting in an exchange for ever. Here they notice within
a minute, say which one it was, and end.
"""

import os
import threading
import time
from types import TracebackType
from typing import Protocol, Self

from pytorch_dl.errors import PeerLostError
from pytorch_dl.training.stderr import Stderr

BEAT_SECONDS, LOST_SECONDS = 2.0, 30.0
KEEPER = "rank 0 or torchrun's own process"  # of the store


class Store(Protocol):
    """Counters that all processes see."""

    def add(self, key: str, amount: int) -> int:
        """Count up, and return the count."""
        ...


class Heartbeat:
    """While entered, one thread beats for this process and another watches the others."""

    def __init__(
        self, store: Store, *, rank: int, size: int, beat: float = BEAT_SECONDS, lost: float = LOST_SECONDS
    ) -> None:
        self._store, self._rank, self._beat, self._lost = store, rank, beat, lost
        self._others = [other for other in range(size) if other != rank]
        self._counts = dict.fromkeys(self._others, -1)
        self._seen = dict.fromkeys(self._others, time.monotonic())
        self._ended = threading.Event()
        self._keeper_is_lost = False
        self._answered = time.monotonic()  # when the store did
        # Whoever talks to the store may be left waiting for it: another thread watches.
        self._threads = [
            threading.Thread(target=work, name="heartbeat", daemon=True) for work in (self._talk, self._watch)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:  # one that is in the store's code while Python ends would abort the process
            thread.join(self._lost)

    def who_is_lost(self) -> str | None:
        """The processes that have not been seen for some beats; waits until there are some, if they come soon."""
        end = time.monotonic() + 5 * self._beat
        while time.monotonic() < end:
            if silent := self._silent(
                0 if self._keeper_is_lost else 2 * self._beat
            ):  # a store that is gone tells no more
                if self._rank == 0:  # the store may end with this process: the others are to see it too
                    time.sleep(3 * self._beat)
                return _named(silent)
            if self._keeper_is_lost or self._unanswered() > 2 * self._beat:
                return KEEPER
            time.sleep(self._beat / 4)
        return None

    def _silent(self, seconds: float) -> list[int]:
        """Who has not beaten for so long, and had missed beats when the store last answered: then it tells no more."""
        now, missed = time.monotonic(), self._answered - 1.5 * self._beat
        return [other for other in self._others if self._seen[other] < min(now - seconds, missed)]

    def _unanswered(self) -> float:
        return time.monotonic() - self._answered

    def _talk(self) -> None:
        """Beat, and note who has beaten."""
        while not self._ended.wait(self._beat):
            try:
                self._store.add(str(self._rank), 1)
                for other in self._others:
                    if (count := self._store.add(str(other), 0)) != self._counts[other]:
                        self._counts[other], self._seen[other] = count, time.monotonic()
                self._answered = time.monotonic()
            except RuntimeError:  # the store is gone, and with it the process that kept it
                self._keeper_is_lost = not self._ended.is_set()
                return

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self._beat):
            now = time.monotonic()
            if now - last > 2 * self._beat:  # this process stood still itself: the others are not to blame
                self._seen, self._answered = dict.fromkeys(self._others, now), now
            last = now
            if silent := self._silent(self._lost):
                self._end(_named(silent))
            elif self._unanswered() > self._lost:
                self._end(KEEPER)

    def _end(self, silent: str) -> None:
        stderr = Stderr()
        stderr.write(
            f"pytorch-dl: error: rank {self._rank} has not heard of {silent} for {self._lost:.0f} s. "
            "Fix: start all processes again: training goes on from the last checkpoint.\n"
        )
        stderr.wait()
        os._exit(PeerLostError.exit_code)  # the other threads wait for who is gone


def _named(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
