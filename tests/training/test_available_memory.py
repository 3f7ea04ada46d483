"""The memory that is left, read from a system's files as they are in several kinds of containers."""

import os
from pathlib import Path

import pytest

from pytorch_dl.training.available_memory import available_memory

FREE = "MemTotal: 9000 kB\nMemAvailable: 4000 kB\n"
GB = 1 << 30


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 4000 << 10),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/memory.max": "1000000\n",
                "sys/fs/cgroup/job/memory.current": "600000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 5\ninactive_file 100000\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/step/memory.current": "600000\n",
            },
            500000,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "1000000\n",
                "sys/fs/cgroup/memory.current": "1000001\n",
            },
            0,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/a\n4:memory:/a:b\n",
                "sys/fs/cgroup/memory/a:b/memory.limit_in_bytes": "700000\n",
                "sys/fs/cgroup/memory/a:b/memory.usage_in_bytes": "300000\n",
                "sys/fs/cgroup/memory/a:b/memory.stat": "total_inactive_file 50000\ninactive_file 9\n",
                "sys/fs/cgroup/a/memory.max": "1\n",
                "sys/fs/cgroup/a/memory.current": "1\n",
            },
            450000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/gone\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(9 * GB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
            },
            4000 << 10,
        ),
    ],
    ids=["the system's", "a group above", "more than its limit", "version 1", "a limit above the rest"],
)
def test_the_least_that_is_left_counts(tmp_path: Path, files: dict[str, str], left: int) -> None:
    assert available_memory(system(tmp_path, {"proc/meminfo": FREE, **files})) == left


def test_a_system_that_does_not_tell_has_what_it_has(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_here_it_is_a_part_of_the_whole() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
