"""How a process is told to use CPU and memory."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pytorch_dl import process


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="malloc is told only with glibc")
def test_glibc_takes_what_it_is_told():
    code = "from pytorch_dl.process import keep_freed_memory; raise SystemExit(not keep_freed_memory())"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ON_LARGE_PAGES = """
import resource
from pathlib import Path
import numpy
from pytorch_dl.process import keep_freed_memory

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keep_freed_memory()
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 20_000, "what is not touched costs nothing"
for _ in range(3):
    kept = numpy.ones(64 << 17)  # 64 MiB
rollup = Path("/proc/self/smaps_rollup").read_text()
print(next(line.split()[1] for line in rollup.splitlines() if line.startswith("AnonHugePages")))
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="malloc is told only with glibc")
@pytest.mark.skipif(not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(), reason="no large pages here")
def test_tensors_lie_on_large_pages():
    done = subprocess.run([sys.executable, "-c", ON_LARGE_PAGES], stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) >= 32 << 10, "KiB of the 64 MiB that are kept"


def test_elsewhere_memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(process.os, "name", "nt")
    assert not process.keep_freed_memory()


def test_a_wish_of_the_user_is_respected(monkeypatch):
    monkeypatch.setattr(process.os, "environ", {"OMP_WAIT_POLICY": "active", "MKL_CBWR": "AUTO"})
    process.fix_kernels()
    assert process.os.environ == {"OMP_WAIT_POLICY": "active", "MKL_CBWR": "AUTO"}
