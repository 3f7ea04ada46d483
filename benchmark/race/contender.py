"""One of those that are compared, in a process of its own, as its users run it.

`python -m benchmark.race.contender FOLDER SIDE PAIRS` is the process: FOLDER holds what `save` wrote. It reads
requests, one JSON list a line: the name of a method of `Worker` and its arguments; and answers each by one line of
JSON. `Contender` is the other end.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from benchmark.contenders.flops import matrices_of
from benchmark.contenders.hf_trainer import HuggingFaceTrainer
from benchmark.contenders.side import Reads
from benchmark.measuring.machine import ROOT
from benchmark.race.measures import Description, Resident, Turn, decode, step_memory, train
from benchmark.race.workload import Workload, endless, prepare
from pytorch_dl.config import to_json
from pytorch_dl.config.load import load_config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.files import write_file
from pytorch_dl.process import fix_kernels, keep_freed_memory
from pytorch_dl.training.live_memory import Peak

PEAK = Path("/proc/self/clear_refs")  # 5 written to it sets the peak of resident memory back
COUNTED_BATCHES = 8


def save(work: Workload) -> None:
    """Leave in the workload's folder all that a worker reads."""
    write_file(work.folder / "config.json", to_json(work.config))
    work.tokenizers.save(work.folder / "tokenizer")


class Contender:
    """A worker in a process of its own, which sleeps while it is not asked."""

    def __init__(self, name: str, work: Workload) -> None:
        self.name = name
        fix_kernels()  # by the environment, which the process inherits
        words = [sys.executable, "-m", "benchmark.race.contender", work.folder, name, work.pairs_per_step]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(list(map(str, words)), cwd=ROOT, **pipes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self._process.kill()
        self._process.communicate()

    def describe(self) -> Description:
        """What it is; waits until it is there."""
        return Description(**self._ask("describe"))

    def warm_up(self, steps: int) -> float:
        """Seconds of its first steps, compilation included."""
        return float(self._ask("warm_up", steps))

    def train(self, steps: int) -> Turn:
        """Some steps of training."""
        return Turn(**self._ask("train", steps))

    def resident(self) -> Resident | None:
        """The peak of resident memory so far, where the system tells it."""
        found = self._ask("resident")
        return Resident(**found) if found else None

    def decode(self, new_tokens: int) -> float:
        """Sentences in a second of greedy search; the next batch of sentences at each call."""
        return float(self._ask("decode", new_tokens))

    def memory(self) -> Peak | None:
        """Bytes of live tensors at the peak of a step, where its steps can be looked into."""
        found = self._ask("memory")
        return Peak(**found) if found else None

    def efficiency(self) -> float | None:
        """Real tokens / all positions of what it has trained on, if it makes its own batches."""
        found: float | None = self._ask("efficiency")
        return found

    def _ask(self, *request: str | int) -> Any:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        if not (answer := self._process.stdout.readline()):
            raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()} when told to {request[0]}")
        return json.loads(answer)


class Worker:
    """The process's own end: all answers are JSON."""

    def __init__(self, name: str, work: Workload) -> None:
        self.side, self.batches = work.side(name), endless(work.loader_of(name))
        self.sentences = endless(work.plain)  # for all the same
        next(self.batches)  # the epoch's plan is made
        self.resident_before = _status_mb("VmRSS") if PEAK.exists() else 0.0
        if PEAK.exists():
            PEAK.write_text("5")

    def describe(self) -> dict[str, Any]:
        parameters = sum(parameter.numel() for parameter in self.side.model.parameters())
        return Description(self.side.what, parameters, self._flops_per_token())._asdict()

    def warm_up(self, steps: int) -> float:
        start = time.perf_counter()
        train(self.side, self.batches, steps)
        return time.perf_counter() - start

    def train(self, steps: int) -> dict[str, float]:
        return train(self.side, self.batches, steps)._asdict()

    def resident(self) -> dict[str, float] | None:
        if not PEAK.exists():
            return None
        peak = _status_mb("VmHWM")
        return Resident(peak, peak - self.resident_before)._asdict()

    def decode(self, new_tokens: int) -> float:
        src: Tensor = next(self.sentences).src
        assert isinstance(self.side, Reads)
        return decode(self.side, src, new_tokens)

    def memory(self) -> dict[str, int] | None:
        if isinstance(self.side, HuggingFaceTrainer):
            return None
        return step_memory(self.side, next(self.batches))._asdict()

    def efficiency(self) -> float | None:
        return self.side.efficiency if isinstance(self.side, HuggingFaceTrainer) else None

    def _flops_per_token(self) -> float | None:
        batches = [next(self.batches) for _ in range(COUNTED_BATCHES)]
        if not (matrices := matrices_of(self.side.model)):
            return None
        tokens = sum(batch.num_src_tokens + batch.num_tgt_tokens for batch in batches)
        return sum(map(matrices.step_flops, batches)) / tokens


def _status_mb(field: str) -> float:
    """A field of /proc/self/status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:"))


def main(folder: Path, name: str, pairs_per_step: int) -> None:
    """Answer until there are no more requests."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    keep_freed_memory()  # as `pytorch-dl run` does; here it makes all sides faster
    tokenizers = TokenizerPair.load(folder / "tokenizer")
    work = prepare(load_config(folder / "config.json"), folder, pairs_per_step=pairs_per_step, tokenizers=tokenizers)
    worker = Worker(name, work)
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        method: Callable[..., Any] = getattr(worker, request)
        print(json.dumps(method(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
