"""A shell in which `pytorch-dl` costs its work and not its imports: a process that has done them forks for each call.

    python warm_shell.py ADDRESS    is that process; it listens at a Unix socket
    WarmShell(...).run(TEXT, ...)   runs the text by bash, as it stands on a page, pipes, redirections and all

What trains is trained for two steps, and holds out 20 pairs, whatever the text says: SMALL follows its settings.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    *("model.d_model=16", "model.n_heads=2", "model.num_encoder_layers=1", "model.num_decoder_layers=1"),
    *("training.max_steps=2", "training.eval_every=2", "training.eval_decode=2", "training.mixed_precision=false"),
    *("scheduler.warmup=1", "system.compile=false", "system.num_threads=1", "logging.tensorboard=false"),
]
ADDED = {
    "run": ["--beam", "2", *SMALL],
    "train": SMALL,
    "estimate": ["--seconds", "0.1", *SMALL],
    "compare": ["--seeds", "1", "--beam", "1", *SMALL],
    "doctor": ["--kills", "0"],
}
CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    wish = json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)]).encode()
    socket.send_fds(connection, [len(wish).to_bytes(4, "big")], [0, 1, 2])
    connection.sendall(wish)
    sys.exit(int(connection.recv(8) or b"70"))
"""
SECONDS = 300.0  # of a machine that has much else to do


class WarmShell:
    """The process and the folder of programs that bash finds first; `with` ends both."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm"))  # short: a socket's address has some hundred bytes
        address = self.folder / "socket"
        client, python = self.folder / "pytorch-dl", self.folder / "python"
        client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for program in (client, python):
            program.chmod(0o755)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, __file__, str(address)], env=environment)
        end = time.monotonic() + SECONDS
        while not address.exists():
            assert self.process.poll() is None and time.monotonic() < end, "the warm process did not begin"
            time.sleep(0.05)

    def __enter__(self) -> "WarmShell":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)

    def run(self, text: str, *, folder: Path) -> "subprocess.CompletedProcess[str]":
        """Run a text in a folder; the first line that fails ends it."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "NO_COLOR": "1",
        }
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )


def listen(address: str) -> None:
    """Fork for each call, for ever."""
    from pytorch_dl.process import fix_kernels

    fix_kernels()  # before torch is loaded, as the command line does
    import torch

    import pytorch_dl.commands
    import pytorch_dl.comparing.comparison
    import pytorch_dl.entry
    import pytorch_dl.exporting
    import pytorch_dl.translating  # noqa: F401 - what the children would import, each by itself
    from pytorch_dl.models import OptimizedTransformer

    with torch.device("meta"):  # what torch loads for that takes a second
        OptimizedTransformer(src_vocab_size=9, tgt_vocab_size=9, d_model=8, n_heads=1, num_encoder_layers=1)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.begun")
        listener.listen()
        os.rename(f"{address}.begun", address)  # there when it answers
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not os.fork():
                listener.close()
                _answer(connection)
            connection.close()


def _small(words: list[str]) -> list[str]:
    """The same command, with little to do."""
    held_out = ["20" if before == "--split" else word for before, word in itertools.pairwise(["", *words])]
    return [*held_out, *ADDED.get("".join(words[:1]), [])]


def _answer(connection: socket.socket) -> None:
    """Do what is wished with the caller's streams, in its folder and environment, and tell the exit code."""
    from pytorch_dl.entry import main

    code = 70
    try:
        size, streams, _, _ = socket.recv_fds(connection, 4, 3)
        wish = b""
        while len(wish) < int.from_bytes(size, "big"):
            wish += connection.recv(1 << 16)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # The old streams know what the old files were: whether one can seek in them.
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        folder, words, environment = json.loads(wish)
        os.environ.clear()
        os.environ |= environment
        os.chdir(folder)
        sys.argv = ["pytorch-dl", *_small(words)]
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        connection.sendall(str(code).encode())
        os._exit(code)


if __name__ == "__main__":
    listen(sys.argv[1])
