"""Files as a stranger might make them, and how to see what they bring about."""

import ctypes
import gzip
import io
import json
import os
import pickle
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from pytorch_dl.files import MANIFEST, sha256, write_json

OPENED, CHANGED = 0x20 | 0x1, 0x2 | 0x4 | 0x100 | 0x200  # of inotify: open, access; modify, attributes, create, delete
MEGABYTE = 1 << 20


class Bomb:
    """Unpickled, it makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def bombs(mark: Path) -> dict[str, bytes]:
    """Files that make the folder `mark` where `careless` reads them."""
    import torch

    zipped, old, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"model": Bomb(mark)}, zipped)
    torch.save({"model": Bomb(mark)}, old, _use_new_zipfile_serialization=False)
    objects = np.empty(1, dtype=object)
    objects[0] = Bomb(mark)
    np.save(array, objects, allow_pickle=True)
    return {
        "pickle in letters": pickle.dumps(Bomb(mark), protocol=0),
        "pickle": pickle.dumps(Bomb(mark), protocol=5),
        "torch.save": zipped.getvalue(),
        "torch.save of old": old.getvalue(),
        "numpy.save": array.getvalue(),
        "joblib": zlib.compress(pickle.dumps(Bomb(mark))),
        "pickle.gz": gzip.compress(pickle.dumps(Bomb(mark))),
        "YAML": f"!!python/object/apply:os.mkdir [{json.dumps(str(mark))}]\n".encode(),
    }


def careless(kind: str, content: bytes) -> None:
    """Read a bomb as the programs do that trust what they read."""
    import torch
    import yaml

    readers: dict[str, Callable[[bytes], object]] = {
        "torch.save": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "torch.save of old": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "numpy.save": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
        "joblib": lambda content: pickle.loads(zlib.decompress(content)),
        "pickle.gz": lambda content: pickle.loads(gzip.decompress(content)),
        "YAML": yaml.unsafe_load,
    }
    readers.get(kind, pickle.loads)(content)


def sign(folder: Path, sums: Mapping[str, str] | None = None) -> None:
    """Write the manifest anew, with more in it: what follows is not damage but another content."""
    plain = (path for path in folder.iterdir() if path.name != MANIFEST and path.is_file() and not path.is_symlink())
    write_json(folder / MANIFEST, {**{path.name: sha256(path) for path in plain}, **(sums or {})})


def safetensors(header: Mapping[str, Any] | bytes, content: bytes = b"", *, length: int | None = None) -> bytes:
    """A file of that form with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


class Watch:
    """Whether anything in a folder is opened or changed, by whatever code: the kernel tells."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder, *folder.rglob("*")]

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in self.paths:
            assert libc.inotify_add_watch(self._descriptor, os.fsencode(path), OPENED | CHANGED) > 0, path
        return self

    def seen(self) -> bool:
        """Whether there was anything since the last call."""
        try:
            return bool(os.read(self._descriptor, 1 << 16))
        except BlockingIOError:
            return False

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def peak_bytes() -> int:
    """The most memory that this process had in use since `forget_peak`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


@contextmanager
def quickly(seconds: float, what: str) -> Iterator[None]:
    """Raise when something hangs, and fail when it takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"{what}: it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < seconds, what
