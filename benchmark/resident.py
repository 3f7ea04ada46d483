"""Peak of resident memory, each side in a process of its own: `python -m benchmark.resident FOLDER SIDE PAIRS STEPS`.

FOLDER holds what `save` wrote: configuration, tokenizer, token store. Prints one JSON object. Linux only.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmark.measures import Side, train
from benchmark.workload import Workload, endless, prepare
from pytorch_dl.config import to_json
from pytorch_dl.config.load import load_config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.files import write_file
from pytorch_dl.process import keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
PEAK = Path("/proc/self/clear_refs")  # 5 written to it sets the peak back


def save(work: Workload) -> None:
    """Leave all that `python -m benchmark.resident` reads."""
    write_file(work.folder / "config.json", to_json(work.config))
    work.tokenizers.save(work.folder / "tokenizer")


def peak_rss(work: Workload, name: str, *, pairs_per_step: int, steps: int) -> dict[str, float] | None:
    """Megabytes of a process that trains one side: at its peak, and how much of that came with the steps."""
    if not PEAK.exists():
        return None
    words = [sys.executable, "-m", "benchmark.resident", work.folder, name, pairs_per_step, steps]
    done = subprocess.run([str(word) for word in words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folder: Path, name: str, pairs_per_step: int, steps: int) -> dict[str, float]:
    """Train one side for some steps in this process."""
    tokenizers = TokenizerPair.load(folder / "tokenizer")
    work = prepare(load_config(folder / "config.json"), folder, pairs_per_step=pairs_per_step, tokenizers=tokenizers)
    if name == "ours":
        keep_freed_memory()  # as `pytorch-dl run` does
    side: Side = work.side(name)
    batches = endless(work.loader_of(name))
    next(batches)  # the epoch's plan is made
    before = status_mb("VmRSS")
    PEAK.write_text("5")
    train(side, batches, steps)
    peak = status_mb("VmHWM")
    return {"peak_mb": peak, "by_training_mb": peak - before}


def status_mb(field: str) -> float:
    """A field of /proc/self/status, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
