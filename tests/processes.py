"""Several processes of one training on this machine, started as torchrun would."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120  # after which a process hangs


_begun: "list[subprocess.Popen[str]]" = []


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    err: str


def start(
    count: int, command: Sequence[str], *, folder: str | None = None, port: int | None = None
) -> "list[subprocess.Popen[str]]":
    """Begin `python COMMAND` in so many processes that know of each other, in a folder; they meet at a port.

    {rank} in a word, and in the folder, is the process's.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = port or probe.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    begun = [
        subprocess.Popen(
            [sys.executable, *(word.format(rank=rank) for word in command)],
            cwd=folder and folder.format(rank=rank),
            env={
                **os.environ,
                "PYTHONPATH": paths,
                **(common if count > 1 else {}),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    _begun.extend(begun)
    return begun


def leave_none() -> None:
    """End those that a test that failed has not waited for: they would train on beside all others."""
    while _begun:
        process = _begun.pop()
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def end(processes: "Sequence[subprocess.Popen[str]]", seconds: float = SECONDS) -> list[Ended]:
    """Wait for all of them."""
    try:
        told = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Ended(process.returncode, err) for process, err in zip(processes, told, strict=True)]


def together(count: int, command: Sequence[str]) -> list[Ended]:
    """Both."""
    return end(start(count, command))
