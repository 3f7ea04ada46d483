"""A pretrained tokenizer is read by a process of its own, within limits: files of strangers crash and fill parsers.

Some of what `transformers` reads is read in C++, where a crafted file ends the process; no `except` catches that. What
comes out is plain JSON. It is no sandbox: it keeps this process alive.
"""

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pytorch_dl.dataset.pretrained_tokenizer import take_over
from pytorch_dl.dataset.tokenizer_folder import Definition
from pytorch_dl.errors import CheckpointError, ConfigError, UserError

CPU_SECONDS = 300
MEMORY_BYTES = 8 << 30
FOLDER_SECONDS = 600  # on the clock; what comes from the network takes what it takes


def load_pretrained(name: str) -> Definition:
    """Take over the tokenizer `name` of the hub, or the local folder of that name, which goes first."""
    if not name.strip():
        raise ConfigError(
            "the name is empty", where="data.tokenizer_name", fix="name bpe, unigram, char, byte, a folder or a model"
        )
    if not importlib.util.find_spec("transformers"):
        raise ConfigError(
            f"{name!r} is none of bpe, unigram, char and byte, and a pretrained tokenizer needs transformers, which is "
            "not installed",
            where="data.tokenizer_name",
            fix="choose one of the four, or pip install 'pytorch-dl[hf]'",
        )
    answer = _ask(name)
    if "error" in answer:
        kind = ConfigError if answer["error"] == ConfigError.__name__ else CheckpointError
        raise kind(answer["what"], where=answer["where"], fix=answer["fix"])
    return Definition(answer["json"], answer["specials"])


def _ask(name: str) -> dict[str, Any]:
    """What the process answers."""
    with tempfile.TemporaryDirectory(prefix="pytorch-dl-tokenizer-") as folder:
        target = Path(folder, "answer.json")
        command = [sys.executable, "-P", "-m", "pytorch_dl.dataset.pretrained_process", name, str(target)]
        command += [str(CPU_SECONDS), str(MEMORY_BYTES)]
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # it imports what this process would
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=FOLDER_SECONDS if Path(name).is_dir() else None,
            )
        except subprocess.TimeoutExpired:
            raise _failed(name, f"took longer than {FOLDER_SECONDS} s") from None
        if done.returncode or not target.exists():
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise _failed(name, _ending(done.returncode) + "".join(f" ({line[:200]})" for line in last))
        answer: dict[str, Any] = json.loads(target.read_bytes())
        return answer


def _ending(code: int) -> str:
    if code == -signal.SIGXCPU:
        return f"took longer than {CPU_SECONDS} s of a CPU"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code} and no answer"


def _failed(name: str, how: str) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer {name!r} cannot be loaded: the process that read it {how}", fix="choose another one"
    )


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, hard))


def main(name: str, target: str, cpu_seconds: str, memory_bytes: str) -> None:
    """Of that process: write what became of the tokenizer."""
    _limit(resource.RLIMIT_CPU, int(cpu_seconds))
    _limit(resource.RLIMIT_DATA, int(memory_bytes))
    _limit(resource.RLIMIT_CORE, 0)
    answer: dict[str, Any]
    try:
        answer = take_over(name)._asdict()
    except UserError as error:
        answer = {"error": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    Path(target).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
