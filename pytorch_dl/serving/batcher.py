"""One thread does the work of all requests: those that wait at the same time and wish alike are done together."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Generic, NamedTuple, TypeVar

WishT = TypeVar("WishT")
DoneT = TypeVar("DoneT")
# (texts, what is wished, is anyone still waiting for them?) -> one result for each text
Work = Callable[[Sequence[str], WishT, Callable[[], bool]], Sequence[DoneT]]


class QueueFullError(Exception):
    """More is waiting than may."""


class ClosedError(Exception):
    """The work ends."""


class _Job(NamedTuple):
    texts: Sequence[str]
    wish: object
    done: list[object]  # grows to one result for each text
    future: "Future[list[object]]"


class Batcher(Generic[WishT, DoneT]):
    """A queue and its thread. Results are in the order of the texts; a future that is cancelled is not worked on.

    A call of `work` gets at most `chunk` texts, of one job or of several; a job that is not done then goes on behind
    the others that wait, so that none waits for a long one. `most` texts may be unfinished at a time.
    """

    def __init__(self, work: Work[WishT, DoneT], *, chunk: int = 32, most: int = 1000) -> None:
        self._work, self._chunk, self._most = work, chunk, most
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="translating", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts that are neither done nor given up."""
        with self._changed:
            return self._count()

    def submit(self, texts: Sequence[str], wish: WishT) -> "Future[list[DoneT]]":
        """What becomes of the texts; raises QueueFullError, and ClosedError after `close`."""
        future: Future[list[DoneT]] = Future()
        with self._changed:
            if self._closed:
                raise ClosedError
            if self._count() + len(texts) > self._most:
                raise QueueFullError
            self._jobs.append(_Job(texts, wish, [], future))  # type: ignore[arg-type]
            self._changed.notify()
        return future

    def close(self, timeout: float = 10.0) -> None:
        """Give up what is waiting, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _count(self) -> int:
        return sum(len(job.texts) - len(job.done) for job in self._jobs if not job.future.done())

    def _run(self) -> None:
        while taken := self._take():
            parts, texts, wish = taken

            def is_wanted(parts: list[tuple[_Job, int]] = parts) -> bool:
                return not self._closed and any(not job.future.done() for job, _ in parts)

            try:
                results = list(self._work(texts, wish, is_wanted))
                assert len(results) == len(texts), f"{len(results)} results for {len(texts)} texts"
            except Exception as error:
                for job, _ in parts:
                    _finish(job, ClosedError() if self._closed else error)
            else:
                self._give(parts, results)
        for job in self._jobs:
            _finish(job, ClosedError())

    def _take(self) -> tuple[list[tuple[_Job, int]], list[str], WishT] | None:
        """The next chunk: how many texts of which jobs, and the texts; None when the work ends."""
        with self._changed:
            while True:
                while self._jobs and self._jobs[0].future.done():
                    self._jobs.popleft()
                if self._closed:
                    return None
                if self._jobs:
                    break
                self._changed.wait()
            first = self._jobs[0]
            parts: list[tuple[_Job, int]] = []
            texts: list[str] = []
            for job in self._jobs:
                if job.wish == first.wish and not job.future.done() and len(texts) < self._chunk:
                    some = job.texts[len(job.done) : len(job.done) + self._chunk - len(texts)]
                    parts.append((job, len(some)))
                    texts.extend(some)
            return parts, texts, first.wish  # type: ignore[return-value]

    def _give(self, parts: list[tuple[_Job, int]], results: list[DoneT]) -> None:
        start = 0
        for job, count in parts:
            with self._changed:
                job.done.extend(results[start : start + count])
            start += count
            if len(job.done) == len(job.texts):
                _finish(job, None)
        had = {id(job) for job, _ in parts}
        with self._changed:  # those that share a chunk end in any place of the queue
            left = [job for job in self._jobs if not job.future.done()]
            self._jobs = deque(sorted(left, key=lambda job: id(job) in had))


def _finish(job: _Job, error: Exception | None) -> None:
    """Tell who waits, unless they have gone in the meantime."""
    with contextlib.suppress(InvalidStateError):
        if error:
            job.future.set_exception(error)
        else:
            job.future.set_result(job.done)
