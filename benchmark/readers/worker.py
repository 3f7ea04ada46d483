"""An engine in a process of its own: `python -m benchmark.readers.worker FOLDER ENGINE DEVICE`.

FOLDER holds config.json and tokenizer/. The process answers requests, one JSON list a line: its arguments are those of
`Reader`'s methods.
"""

import json
import os
import subprocess
import sys
import time
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmark.measuring.machine import ROOT
from benchmark.readers.engines import Task, engine
from pytorch_dl.config.load import load_config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.process import fix_kernels, keep_freed_memory


class Reader:
    """The other end of a worker, which sleeps while it is not asked."""

    def __init__(self, name: str, folder: Path, *, device: str) -> None:
        self.name = name
        fix_kernels()  # by the environment, which the process inherits
        words = [sys.executable, "-m", "benchmark.readers.worker", str(folder), name, device]
        self._process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self._process.kill()
        self._process.communicate()

    def describe(self) -> str:
        """What it is; waits until it is there."""
        return str(self._ask("describe"))

    def seconds(self, task: Task) -> float:
        """Time of the task."""
        return float(self._ask("write", *task))

    def profile(self, task: Task) -> list[dict[str, Any]]:
        """Where this project's time goes: the operators with the most time of their own."""
        found: list[dict[str, Any]] = self._ask("profile", *task)
        return found

    def _ask(self, *request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        if not (answer := self._process.stdout.readline()):
            raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()} when told to {request[0]}")
        return json.loads(answer)


def timed(reader: Any, task: Task) -> float:
    """Seconds of a task."""
    start = time.perf_counter()
    written = reader.write(task)  # on the host at the end, so that a GPU has done it all
    seconds = time.perf_counter() - start
    assert written == len(task.sources) * task.new_tokens, f"{reader.what} wrote {written} tokens"
    return seconds


def profiled(reader: Any, task: Task, device: str) -> list[dict[str, Any]]:
    """Operators by their own time, in milliseconds and as a share."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as found:
        reader.write(task)
    own = attrgetter("self_device_time_total" if device == "cuda" else "self_cpu_time_total")
    rows = sorted(found.key_averages(), key=own, reverse=True)
    total = sum(map(own, rows))
    return [
        {
            "operator": row.key,
            "calls": row.count,
            "ms": own(row) / 1e3,
            "share": own(row) / total,
        }
        for row in rows[:12]
    ]


def main(folder: Path, name: str, device: str) -> None:
    """Answer until there are no more requests."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    keep_freed_memory()
    config, tokenizers = load_config(folder / "config.json"), TokenizerPair.load(folder / "tokenizer")
    reader = engine(name, config, tokenizers, folder, device=device)
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        answer: Any = reader.what
        if request == "write":
            answer = timed(reader, Task(*arguments))
        elif request == "profile":
            answer = profiled(reader, Task(*arguments), device)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
