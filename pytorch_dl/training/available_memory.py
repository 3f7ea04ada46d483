"""How much memory this process may still take on the host: what the system has left, or a limit of its own.

A limit of a control group (a container's, a batch job's) is in none of the numbers of the whole system, and who
exceeds it is killed without an error.
"""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def available_memory(root: Path = ROOT) -> int:
    """Bytes, of what is mounted at `root`; where the system does not tell what is free, all that it has."""
    found = [*_system(root), *_control_groups(root)]
    return max(0, min(found)) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _system(root: Path) -> Iterator[int]:
    text = _read(root / "proc/meminfo") or ""
    yield from (int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("MemAvailable:"))


def _control_groups(root: Path) -> Iterator[int]:
    """What is left in each group that the process is in: of version 2, or of version 1 for memory."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        kinds, _, group = rest.partition(":")
        if not kinds:
            top, limit, usage = "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            top, limit, usage = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inner = Path(top, group.lstrip("/"))
        for folder in (inner, *inner.parents):
            most, used = _read(root / folder / limit), _read(root / folder / usage)
            if most and used and most.strip().isdigit():
                yield int(most) - int(used) + _given_back(_read(root / folder / "memory.stat") or "")
            if folder == Path(top):
                break


def _given_back(stat: str) -> int:
    """Bytes of files that are counted as used, and that the system drops when memory is asked for."""
    counted = dict(line.split(None, 1) for line in stat.splitlines() if " " in line)
    return int(counted.get("total_inactive_file", counted.get("inactive_file", "0")))


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
