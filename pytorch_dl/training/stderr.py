"""Standard error that nobody waits for: its reader may hang or leave, its disk be full; work goes on unread.

A thread writes. Whoever gives it a text waits until it is written, so that all that a process says stays in its order.
Only where that takes too long, as the reader hangs (a stopped `tee`, a frozen ssh, Ctrl-S), texts wait in a queue.
"""

import atexit
import contextlib
import functools
import io
import os
import sys
from queue import SimpleQueue
from threading import Lock, Thread
from typing import IO

TEXTS_WAITING = 1000
PATIENCE = 0.2  # seconds, once, for a reader that hangs
ENDING_SECONDS = 1.0  # for one that hangs when the process ends


class Stderr(io.TextIOBase):
    """What `sys.stderr` writes to."""

    def write(self, text: str) -> int:
        """Write at once, or, while the reader hangs, as soon as it reads."""
        stream = _real_stderr()
        if stream is sys.__stderr__:
            _writer(os.getpid()).write(stream.fileno(), text.encode(stream.encoding, stream.errors or "strict"))
        else:  # a notebook's, say
            with contextlib.suppress(OSError):
                stream.write(text)
                stream.flush()
        return len(text)

    def wait(self) -> None:
        """Until all is written, but not for long: at the end of a process."""
        _writer(os.getpid()).wait()

    def isatty(self) -> bool:
        """Whether somebody looks on."""
        return _real_stderr().isatty()

    def fileno(self) -> int:
        """Its descriptor."""
        return _real_stderr().fileno()


class _Writer:
    """The thread. Its locks are one for each text: a signal that ends a wait leaves none locked that another needs."""

    def __init__(self) -> None:
        self._texts: SimpleQueue[tuple[int, bytes, Lock]] = SimpleQueue()
        self._last = Lock()  # of the text that was given last; free when it is written, and with it all before
        self._dropped = 0
        Thread(target=self._work, name="stderr", daemon=True).start()
        atexit.register(self.wait)

    def write(self, descriptor: int, text: bytes) -> None:
        hangs = self._last.locked()
        if hangs and b"\n" not in text:  # the live line: the next one takes its place
            return
        if self._texts.qsize() >= TEXTS_WAITING:
            self._dropped += text.count(b"\n")
            return
        if self._dropped:
            text = f"({self._dropped:,} lines are not shown here, as nobody read them)\n".encode() + text
            self._dropped = 0
        self._last = written = Lock()
        written.acquire()
        self._texts.put((descriptor, text, written))
        if not hangs:
            _await(written, PATIENCE)

    def wait(self) -> None:
        _await(self._last, ENDING_SECONDS)

    def _work(self) -> None:
        while True:
            descriptor, text, written = self._texts.get()
            try:
                while text:  # not by the stream: its lock would be held as long as its reader hangs
                    text = text[os.write(descriptor, text) :]
            except OSError:
                _leave(descriptor)
            written.release()


@functools.cache
def _writer(process: int) -> _Writer:
    """The only one of a process: a child that was forked has none of its parent's threads."""
    return _Writer()


def _await(written: Lock, seconds: float) -> None:
    if written.acquire(timeout=seconds):
        written.release()


def _real_stderr() -> IO[str]:
    """Not what a live line puts in its place."""
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def _leave(descriptor: int) -> None:
    """Let what waits to be written there, and all that follows, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
