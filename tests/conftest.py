"""What all tests share: one thread, how many examples, and a finished run that tests read and never write to."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from processes import leave_none
from tiny_runs import TINY, write_tsv

from pytorch_dl.process import fix_kernels

# A shell's background job ignores Ctrl-C, one under nohup the end of the terminal; the children of both likewise.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The same few examples on every change; in a night, with the cases of reliability, many others.
everywhere = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("change", max_examples=50, derandomize=True, **everywhere)
settings.register_profile("night", max_examples=10_000, print_blob=True, **everywhere)
settings.load_profile("night" if os.environ.get("PYTORCH_DL_RELIABILITY") else "change")
fix_kernels()  # before torch is loaded, as the command line does: equal bits


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are slower on several threads, and their sums may have other bits."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """Whatever became of the test."""
    yield
    leave_none()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `run` on text.tsv, which lies beside it."""
    from pytorch_dl.entry import execute

    folder = tmp_path_factory.mktemp("tiny")
    text = write_tsv(folder / "text.tsv")
    assert (
        execute(["run", "--src", str(text), "--split", "12", "--out", str(folder / "run"), "--beam", "2", *TINY]) == 0
    )
    return folder / "run"
