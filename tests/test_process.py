"""How a process is told to use CPU and memory."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pytorch_dl import process

GLIBC = pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="malloc is told only with glibc")


@GLIBC
def test_glibc_takes_what_it_is_told():
    code = "from pytorch_dl.process import keep_freed_memory; raise SystemExit(not keep_freed_memory())"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ON_LARGE_PAGES = """
import resource
from pathlib import Path
from pytorch_dl.process import keep_freed_memory

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keep_freed_memory()
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 20_000, "what is not touched costs nothing"
for _ in range(3):
    kept = b"x" * (64 << 20)  # numpy asks for large pages itself
rollup = Path("/proc/self/smaps_rollup").read_text()
print(next(line.split()[1] for line in rollup.splitlines() if line.startswith("AnonHugePages")))
"""


@GLIBC
@pytest.mark.skipif(not process._large_pages_are_cheap(), reason="no large pages here")
@pytest.mark.skipif(not LARGE_PAGES.exists() or "[madvise]" not in LARGE_PAGES.read_text(), reason="all or none anyway")
def test_tensors_lie_on_large_pages():
    done = subprocess.run([sys.executable, "-c", ON_LARGE_PAGES], stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) >= 32 << 10, "KiB of the 64 MiB that are kept"


KEPT = """
import ctypes
from pytorch_dl.process import keep_freed_memory

keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(ctypes.c_size_t(400 << 20)) for _ in range(7)]  # more than 2 GiB, none of it touched
end = libc.sbrk(0)
for block in reversed(blocks):
    libc.free(block)
assert libc.sbrk(0) == end, "the heap was cut back"
"""


@GLIBC
def test_the_heap_is_never_cut_back():
    subprocess.run([sys.executable, "-c", KEPT], check=True)


@pytest.mark.parametrize(("overcommit", "page"), [("2", 2 << 20), ("0", 512 << 20)])
def test_large_pages_are_not_asked_for_where_they_cost(monkeypatch, tmp_path, overcommit, page):
    files = {"hpage_pmd_size": str(page), "overcommit_memory": overcommit}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(process, "Path", lambda place: tmp_path / Path(place).name)
    assert not process._large_pages_are_cheap()


def test_elsewhere_memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(process.os, "name", "nt")
    assert not process.keep_freed_memory()


def test_a_wish_of_the_user_is_respected(monkeypatch):
    monkeypatch.setattr(process.os, "environ", {"OMP_WAIT_POLICY": "active", "MKL_CBWR": "AUTO"})
    process.fix_kernels()
    assert process.os.environ == {"OMP_WAIT_POLICY": "active", "MKL_CBWR": "AUTO"}
