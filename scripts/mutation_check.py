"""Break one safeguard after another, and see that a test notices: `python scripts/mutation_check.py [NAME ...]`.

A test that never fails proves nothing. Each mutant is a copy of the project with one change; its test must pass without
the change and fail with it. Writes benchmark/results/mutants.json, from which docs/reliability.md has its table.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmark.measuring.machine import RESULTS, machine  # noqa: E402  (the checkout is found by the line above)
from pytorch_dl.files import write_json  # noqa: E402

PARTS = ("pytorch_dl", "tests", "benchmark", "scripts", "examples", "configs", "docs", "pyproject.toml", "README.md")
SECONDS = 600


class Mutant(NamedTuple):
    """A safeguard that is taken out: a piece of a file, what stands in its place, and the test that must notice."""

    what: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = {
    "fsync": Mutant(
        "files are not flushed to the disk",
        "pytorch_dl/files.py",
        "    try:\n        os.fsync(descriptor)\n    finally:",
        "    try:\n        pass\n    finally:",
        "tests/reliability/test_d_power.py::test_d2_power_loss",
    ),
    "rename": Mutant(
        "a folder is filled under its own name",
        "pytorch_dl/files.py",
        '{os.getpid()}")\n    with disk_errors(path):',
        '{os.getpid()}")\n    temporary = path\n    with disk_errors(path):',
        "tests/training/test_resume.py::TestKilledWhileSaving",
    ),
    "manifest": Mutant(
        "checksums are not compared",
        "pytorch_dl/files.py",
        "return None if sha256(file) == expected else",
        "return None if True else",
        "tests/reliability/test_d_crashes.py::test_d6_a_damaged_newest_checkpoint",
    ),
    "tokens": Mutant(
        "each batch is divided by its own tokens, not by the step's",
        "pytorch_dl/training/step.py",
        "tokens=int(own.tgt_tokens))",
        "tokens=int(batch.num_tgt_tokens) * size)",
        "tests/reliability/test_f_numbers.py::test_f3_the_same_pairs_divided_otherwise",
    ),
    "broadcast": Mutant(
        "each process keeps what it thinks, rather than what the first says",
        "pytorch_dl/training/peers.py",
        "        if self.size == 1:\n            return value\n        text",
        "        if self.size >= 1:\n            return value\n        text",
        "tests/training/test_peers.py::TestExchanges",
    ),
    "order": Mutant(
        "gradients are added by the rank, not in the order of the list",
        "pytorch_dl/training/peers.py",
        "for gradient in received.view(size, -1)[:slots]:",
        "for gradient in received.view(size, -1)[:slots].flip(0):",
        "tests/training/test_peers.py::TestExchanges",
    ),
    "segments": Mutant(
        "pairs that share a row see each other",
        "pytorch_dl/models/masks.py",
        "mask = (query == key) | (query == 0)",
        "mask = (query == key) | (query >= 0)",
        "tests/training/test_update.py::TestAccumulation::test_equals_packed_batches",
    ),
    "finite": Mutant(
        "loss and gradients are not looked at",
        "pytorch_dl/training/update.py",
        "        if math.isfinite(numbers.loss) and math.isfinite(numbers.grad_norm):\n            return",
        "        if numbers is not None:\n            return",
        "tests/reliability/test_f_numbers.py::test_f1_numbers_that_are_not_finite",
    ),
    "weights": Mutant(
        "weights are saved without a look at them",
        "pytorch_dl/training/checkpointer.py",
        "            self.update.check_weights(state.step)\n",
        "",
        "tests/training/test_update.py::TestNonFinite::test_weights_that_an_update_made_infinite_are_not_saved",
    ),
    "optimizer": Mutant(
        "a resumed training begins with an empty optimizer",
        "pytorch_dl/training/update.py",
        "        ckpt.load_optimizer(self.model, self.optimizer, checkpoint / ckpt.OPTIMIZER)\n",
        "",
        "tests/training/test_resume.py::TestEveryStep",
    ),
    "dropout": Mutant(
        "dropout does not depend on the step",
        "pytorch_dl/training/objective.py",
        "token_keys(mix_number(seed, step, side),",
        "token_keys(mix_number(seed, side),",
        "tests/training/test_update.py::test_dropout_is_another_at_each_step_and_for_each_seed",
    ),
    "lock": Mutant(
        "two trainings may use one folder",
        "pytorch_dl/files.py",
        "            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)\n",
        "tests/test_files.py",
    ),
    "record": Mutant(
        "the record is not cut back to the checkpoint",
        "pytorch_dl/training/trainer.py",
        "        self.state.metrics_position = self.reporter.position(self.state)\n",
        "",
        "tests/training/test_resume.py::TestEveryStep",
    ),
}


def main(names: list[str]) -> int:
    """Try the mutants of these names, or all; the result keeps those of others. Returns 1 when one was not noticed."""
    result = RESULTS / "mutants.json"
    found: dict[str, dict[str, object]] = (
        json.loads(result.read_bytes())["mutants"] if names and result.exists() else {}
    )
    for name in names or MUTANTS:
        mutant = MUTANTS[name]
        passes, _ = tried(mutant, changed=False)
        fails, case = tried(mutant, changed=True)
        caught = passes and not fails
        found[name] = {"what": mutant.what, "file": mutant.file, "caught": caught, "by": case or mutant.test}
        print(f"{'caught' if caught else 'NOT CAUGHT':10}  {name}: {mutant.what}; by {found[name]['by']}", flush=True)
    write_json(result, {"machine": machine(), "mutants": found})
    return int(not all(mutant["caught"] for mutant in found.values()))


def tried(mutant: Mutant, *, changed: bool) -> tuple[bool, str | None]:
    """Whether the mutant's test passes in a copy of the project, and the first case that did not."""
    with tempfile.TemporaryDirectory(prefix="pytorch-dl-mutant-") as scratch:
        copy = Path(scratch)
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
            else:
                shutil.copy(source, copy / part)
        if changed:
            file = copy / mutant.file
            text = file.read_text()
            if text.count(mutant.old) != 1:
                raise SystemExit(f"{mutant.file} holds {text.count(mutant.old)} times, not once: {mutant.old!r}")
            file.write_text(text.replace(mutant.old, mutant.new))
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.test.split()],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    if ended.returncode not in (0, 1):  # of pytest: 1 is a test that failed, others are no answer
        raise SystemExit(f"{mutant.test}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    case = re.search(r"^FAILED (\S+)", ended.stdout, re.MULTILINE)
    return ended.returncode == 0, case[1] if case else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
