"""How a process that trains uses the CPU and its memory: kernels, waiting threads, freed memory. No torch here."""

import ctypes
import mmap
import os
from pathlib import Path

# Of glibc's malloc.h: from how many bytes on an allocation is a mapping of its own, and how many free bytes stay.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MAPPING = (1 << 30, 1 << 25)  # glibc before 2.35 takes no more than 32 MiB
NEVER = -1  # to give back the heap's end, however much of it is free
HEAP_BLOCKS = (900 << 20, 900 << 20)  # each below the largest mapping
LARGE_PAGE = 4 << 20  # bytes; elsewhere they may be of 512 MiB


def fix_kernels() -> None:
    """Tell the libraries below torch, before it is loaded, how to use the CPU.

    MKL is to choose its kernels by the CPU alone: same bits in each process. Its own choice, AUTO, takes the slowest
    ones on a CPU that is not Intel's: up to 40 % slower. And OpenMP's threads wait for each other by spinning for ever,
    which beside any other busy process made a step up to 15 times slower; a short spin costs 2 % on a quiet machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    cpu = Path("/proc/cpuinfo")
    features = cpu.read_text() if cpu.exists() else ""
    if "avx2" in features and "avx512f" not in features:
        os.environ.setdefault("MKL_CBWR", "AVX2")
    elif "avx512f" in features and "GenuineIntel" in features:
        os.environ.setdefault("MKL_CBWR", "AVX512")


def keep_freed_memory() -> bool:
    """Let malloc keep what tensors give back, for the next step's, on large pages; False where it cannot be told.

    A step frees and allocates the same large tensors again. Without this each is mapped anew, and the kernel clears
    30,000 pages a step: 15 % of the time of a small model. Large pages save another 5 to 8 %.
    """
    if os.name != "posix" or (mallopt := getattr(libc := ctypes.CDLL(None), "mallopt", None)) is None:
        return False
    kept = any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_MAPPING) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
    if kept and _large_pages_are_cheap():
        _use_large_pages(libc)
    return kept


def _large_pages_are_cheap() -> bool:
    """Whether this system has them, of a few megabytes each, and does not count memory that nobody has touched."""
    size, overcommit = (
        Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"),
        Path("/proc/sys/vm/overcommit_memory"),
    )
    if not (size.exists() and overcommit.exists() and hasattr(mmap, "MADV_HUGEPAGE")):
        return False
    import resource

    limits = {resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)}
    no_limit = limits == {resource.RLIM_INFINITY} and overcommit.read_text().strip() != "2"
    return no_limit and int(size.read_text()) <= LARGE_PAGE


def _use_large_pages(libc: ctypes.CDLL) -> None:
    """Grow the heap at its end, and ask for large pages there before any is touched: so it costs no memory."""
    libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
    libc.sbrk.argtypes, libc.malloc.argtypes = [ctypes.c_ssize_t], [ctypes.c_size_t]
    libc.free.argtypes, libc.madvise.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.sbrk(0)
    blocks = [libc.malloc(size) for size in HEAP_BLOCKS]
    end = libc.sbrk(0)  # where it was, if another malloc or another place serves such blocks
    for block in reversed(blocks):
        libc.free(block)  # they stay the heap's
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    if end > first:
        libc.madvise(first, end - first, mmap.MADV_HUGEPAGE)
