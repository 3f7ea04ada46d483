"""Break one safeguard after another, and see that a test notices: `python scripts/mutation_check.py [NAME ...]`.

A test that never fails proves nothing. Each mutant is a copy of the project without one safeguard; its test must pass
with it and fail without, by what it says was lost and for no other reason. Writes benchmark/results/mutants.json, from
which docs/reliability.md has its table.
"""

import functools
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
    """A safeguard that is taken out: pieces of a file with what stands in their place, and the test that must notice.

    `says` is a pattern of what that test says when this was lost: one that fails otherwise has not noticed it.
    """

    what: str
    file: str
    changes: dict[str, str]
    test: str
    says: str


class Failure(NamedTuple):
    """The first case of a test that failed, and the line by which pytest tells why."""

    case: str
    reason: str


MUTANTS = {
    "fsync": Mutant(
        "files are not flushed to the disk",
        "pytorch_dl/files.py",
        {"    try:\n        os.fsync(descriptor)\n    except": "    try:\n        pass\n    except"},
        "tests/reliability/test_d_power.py::test_d2_power_loss",
        r"disk \d+: ",
    ),
    "rename": Mutant(
        "a folder is filled under its own name",
        "pytorch_dl/files.py",
        {
            '{os.getpid()}")\n    with disk_errors(path):': '{os.getpid()}")\n    with disk_errors(temporary := path):',
            "_replace_folder(temporary, path)\n": "sync_folder(path.parent)\n            temporary /= 'nothing'\n",
        },
        "tests/training/test_resume.py::TestKilledWhileSaving",
        r"assert \['2', '1'\] in \(\['3', '2', '1'\]",
    ),
    "manifest": Mutant(
        "checksums are not compared",
        "pytorch_dl/files.py",
        {"return None if sha256(file) == expected else": "return None if True else"},
        "tests/training/test_checkpoint.py::TestNewestValid",
        r"step-00000002'\) == .*step-00000001'\)",
    ),
    "tokens": Mutant(
        "each batch is divided by its own tokens, not by the step's",
        "pytorch_dl/training/step.py",
        {"tokens=int(own.tgt_tokens))": "tokens=int(batch.num_tgt_tokens) * size)"},
        "tests/reliability/test_f_numbers.py::test_f3_the_same_pairs_divided_otherwise",
        r"\(0, \d\)",
    ),
    "broadcast": Mutant(
        "each process keeps what it thinks, rather than what the first says",
        "pytorch_dl/training/peers.py",
        {"if self.size == 1:\n            return value\n": "if self.size >= 1:\n            return value\n"},
        "tests/training/test_peers.py::TestExchanges",
        r"assert \{'from': 1",
    ),
    "order": Mutant(
        "gradients are added by the rank, not in the order of the list",
        "pytorch_dl/training/peers.py",
        {"[:slots]:": "[:slots].flip(0):"},
        "tests/training/test_peers.py::TestExchanges",
        r"assert \[\[",
    ),
    "segments": Mutant(
        "pairs that share a row see each other",
        "pytorch_dl/models/masks.py",
        {"mask = (query == key) | (query == 0)": "mask = (query == key) | (query >= 0)"},
        "tests/training/test_update.py::TestAccumulation::test_equals_packed_batches",
        r"assert tensor\(.+\) <= \(1e-12 \*",
    ),
    "finite": Mutant(
        "loss and gradients are not looked at",
        "pytorch_dl/training/update.py",
        {"if math.isfinite(numbers.loss) and math.isfinite(numbers.grad_norm):": "if numbers is not None:"},
        "tests/training/test_update.py::TestNonFinite::test_nothing_is_updated",
        "DID NOT RAISE .*NonFiniteError",
    ),
    "weights": Mutant(
        "weights are saved without a look at them",
        "pytorch_dl/training/checkpointer.py",
        {"            self.update.check_weights(state.step)\n": ""},
        "tests/training/test_update.py::TestNonFinite::test_weights_that_an_update_made_infinite_are_not_saved",
        "infinite weights were saved",
    ),
    "optimizer": Mutant(
        "a resumed training begins with an empty optimizer",
        "pytorch_dl/training/update.py",
        {"        ckpt.load_optimizer(self.model, self.optimizer, checkpoint / ckpt.OPTIMIZER, self.groups)\n": ""},
        "tests/training/test_resume.py::TestEveryStep",
        r"step-\d+: metrics, model\.safetensors, optimizer\.safetensors, state, weights$",
    ),
    "dropout": Mutant(
        "dropout does not depend on the step",
        "pytorch_dl/training/objective.py",
        {"token_keys(mix_number(seed, step, side),": "token_keys(mix_number(seed, side),"},
        "tests/training/test_update.py::test_dropout_is_another_at_each_step_and_for_each_seed",
        r"assert \(tensor\(False\)",
    ),
    "lock": Mutant(
        "two trainings may use one folder",
        "pytorch_dl/files.py",
        {"fcntl.LOCK_EX | fcntl.LOCK_NB": "fcntl.LOCK_SH | fcntl.LOCK_NB"},
        "tests/test_files.py::TestRunLock",
        "DID NOT RAISE .*ResourceError",
    ),
    "record": Mutant(
        "the record is not cut back to the checkpoint",
        "pytorch_dl/training/trainer.py",
        {"        self.reporter.note_position(self.state)\n": ""},
        "tests/training/test_resume.py::TestEveryStep",
        r"step-\d+: metrics$",
    ),
    "best": Mutant(
        "rotation deletes the best checkpoint once it is old",
        "pytorch_dl/training/rotation.py",
        {"        *(folder / name_of(step) for step in protected),\n": ""},
        "tests/training/test_rotation.py::TestRotation",
        r"assert \[4, 3\] == \[4, 3, 1\]",
    ),
    "copy": Mutant(
        "a save in the background writes the tensors that training goes on with",
        "pytorch_dl/training/background.py",
        {"    return place.copy_(tensor, non_blocking=tensor.is_cuda)": "    return tensor"},
        "tests/training/test_background.py::test_the_bytes_are_those_of_a_save_at_once",
        r"assert \{'step-0",
    ),
    "average": Mutant(
        "a resumed training begins the moving average anew",
        "pytorch_dl/training/update.py",
        {"if self.average:\n            ckpt.load_tensors(": "if False:\n            ckpt.load_tensors("},
        "tests/training/test_resume.py::TestEveryStep",
        r"step-\d+: average\.safetensors, metrics, state, weights$",
    ),
    "scale": Mutant(
        "a resumed fp16 training begins with the first loss scale",
        "pytorch_dl/training/update.py",
        {"            self.scaler.load_state_dict(state.scaler)\n": "            pass\n"},
        "tests/training/test_update.py::TestHalfPrecision::test_the_scale_is_restored",
        r"assert 65536\.0 == 128\.0",
    ),
    "links": Mutant(
        "links and pipes in a run folder are followed",
        "pytorch_dl/training/run_folder.py",
        {"        refuse_strange(strange_entries(self.path, deep=False))\n": ""},
        "tests/reliability/test_h_paths.py::test_h4_what_is_no_plain_file",
        "config.yaml is a link out",
    ),
}


def main(names: list[str]) -> int:
    """Try the mutants of these names, or all; the result keeps those of others. Returns 1 when one was not noticed."""
    result = RESULTS / "mutants.json"
    found: dict[str, dict[str, object]] = (
        json.loads(result.read_bytes())["mutants"] if names and result.exists() else {}
    )
    for name in names or MUTANTS:
        found[name] = one = judged(MUTANTS[name])
        print(
            f"{'caught' if one['caught'] else 'NOT CAUGHT':10}  {name}: {one['what']}; by {one['by']}: {one['reason']}"
        )
        sys.stdout.flush()
    write_json(result, {"machine": machine(), "mutants": found})
    return int(not all(mutant["caught"] for mutant in found.values()))


def judged(mutant: Mutant) -> dict[str, object]:
    """Whether the mutant is caught, by which case of its test, and what that case says."""
    passed, failure = passes(mutant.test), failure_of(mutant.test, mutant)
    unnoticed = failure is None or not re.search(mutant.says, failure.reason)
    return {
        "what": mutant.what,
        "file": mutant.file,
        "caught": passed and not unnoticed,
        "by": failure.case if failure else mutant.test,
        "reason": failure.reason if failure else "it passes",
    }


@functools.cache
def passes(test: str) -> bool:
    """Whether a test, which several mutants may share, passes with all safeguards."""
    return failure_of(test) is None


def failure_of(test: str, mutant: Mutant | None = None) -> Failure | None:
    """How a test fails in a copy of the project, which may be a mutant; None where it passes."""
    with tempfile.TemporaryDirectory(prefix="pytorch-dl-mutant-") as scratch:
        copy = Path(scratch) / "project"
        copy.mkdir()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__", "results"))
            else:
                shutil.copy(source, copy / part)
        if mutant:
            file = copy / mutant.file
            file.write_text(changed_text(mutant, file.read_text()))
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch}/tmp"]
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *test.split()],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "300"},  # or pytest cuts the reason short
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    if ended.returncode not in (0, 1):  # of pytest: 1 is a test that failed, others are no answer
        raise SystemExit(f"{test}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    if ended.returncode == 0:
        return None
    told = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", ended.stdout, re.MULTILINE)
    assert told, ended.stdout
    return Failure(told[1], re.sub(r"(/[\w.-]+)+/", "", told[2] or ""))  # the folder of a path is another each time


def changed_text(mutant: Mutant, text: str) -> str:
    """The file without the safeguard."""
    for old, new in mutant.changes.items():
        if text.count(old) != 1:
            raise SystemExit(f"{mutant.file} holds {text.count(old)} times, not once: {old!r}")
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
