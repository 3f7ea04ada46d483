"""How a process is told to use CPU and memory."""

import platform
import subprocess
import sys

import pytest

from pytorch_dl import process


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="malloc is told only with glibc")
def test_glibc_takes_what_it_is_told():
    code = "from pytorch_dl.process import keep_freed_memory; raise SystemExit(not keep_freed_memory())"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_elsewhere_memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(process.os, "name", "nt")
    assert not process.keep_freed_memory()


def test_a_wish_of_the_user_is_respected(monkeypatch):
    monkeypatch.setattr(process.os, "environ", {"OMP_WAIT_POLICY": "active", "MKL_CBWR": "AUTO"})
    process.fix_kernels()
    assert process.os.environ == {"OMP_WAIT_POLICY": "active", "MKL_CBWR": "AUTO"}
