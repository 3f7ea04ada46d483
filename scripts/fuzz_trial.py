"""What is done with each input of a fuzzer, and what is noted of it."""

import hashlib
import os
import resource
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from pytorch_dl.errors import UserError
from pytorch_dl.files import write_json

SECONDS_BETWEEN_WRITES = 1.0


class Trial:
    """Feeds a target, and notes whatever is raised that is no UserError."""

    def __init__(self, feed: Callable[[bytes], object], folder: Path, *, seconds: float) -> None:
        self.feed, self.folder = feed, folder
        self.executions, self.findings = 0, dict[str, str]()
        self._begun = self._written = time.monotonic()
        self._seconds = seconds

    def __call__(self, data: bytes) -> None:
        """One input; the last one ends the process."""
        self.executions += 1
        try:
            self.feed(data)
        except UserError:
            pass
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a library in Rust is no Exception
            self._note(error, data)
        now = time.monotonic()
        if now - self._written > SECONDS_BETWEEN_WRITES:
            self._written = now
            self.write()
        if now - self._begun > self._seconds:
            self.write()
            os._exit(0)

    def write(self) -> None:
        """Write down what was done so far."""
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        result = {"executions": self.executions, "memory_mb": memory, "findings": self.findings}
        write_json(self.folder / "result.json", result)

    def _note(self, error: BaseException, data: bytes) -> None:
        """Keep the first input of each place that an error comes from."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "pytorch_dl" in Path(frame.filename).parts] or frames
        name = f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"
        if name not in self.findings:
            path = self.folder / f"finding-{hashlib.sha256(data).hexdigest()[:12]}"
            path.write_bytes(data)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))
            self.findings[name] = path.name
