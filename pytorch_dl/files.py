"""The one durable writer: whatever this project leaves on disk is whole or absent, never half.

A file is written under a temporary name, flushed to the disk and renamed; a folder likewise, with a manifest of
SHA-256 sums written last, so that a reader can tell a whole folder from a torn one.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_dl.errors import ResourceError, visible
from pytorch_dl.plain_files import open_plain, strangeness

MANIFEST = "manifest.json"
TEMPORARY = ".pytorch-dl-tmp-"
LARGEST_JSON = 1 << 24  # bytes; ours have some hundred
_ASIDE = ".pytorch-dl-old-"
_LEFTOVER = re.compile(rf"({re.escape(TEMPORARY)}|{re.escape(_ASIDE)})(.+)\.([0-9]+)")  # nothing of another program
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers tell the system's error number
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WAYS_OUT = {
    **dict.fromkeys(DISK_FULL, "free some space and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "choose another folder"),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk and run again",
}


def write_file(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` such that a kill or a power cut leaves the old file or the new one.

    A link stays one: the file that it leads to is replaced. A pipe or device is written to.
    """
    content = content.encode() if isinstance(content, str) else content
    with disk_errors(path):
        open_already = {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path))
        if open_already or (path.exists() and not path.is_file()):
            sys.stdout.flush()
            # Opened anew, standard output would have a second place to write at.
            with open(open_already or path, "wb", closefd=not open_already) as file:
                file.write(content)
            return
        path = Path(os.path.realpath(path))
        temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
        make_folder(path.parent)
        try:
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:  # never what a link of that name leads to
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON through `write_file`."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on a clean exit it becomes `path`, with a manifest and synced to disk.

    An existing `path` is replaced. After an exception `path` is as it was before. After a kill it is too, once what was
    left is cleaned up: by the next `new_folder` of this name, or by `remove_leftovers`.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{os.getpid()}")
    with disk_errors(path):
        make_folder(path.parent)
        remove_leftovers(path.parent, names=re.escape(path.name), of_living=False)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            sums, rights = {}, temporary.stat().st_mode & 0o666  # those that the umask leaves
            for file in sorted(temporary.rglob("*")):
                if file.is_file():
                    file.chmod(rights)  # some libraries keep what they write to its owner
                    sums[file.relative_to(temporary).as_posix()] = sha256(file)
                _sync(file)
            write_json(temporary / MANIFEST, sums)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def damage(path: Path) -> str | None:
    """Say what is wrong with a folder made by `new_folder`, or None when each file is as its manifest says."""
    if strange := strangeness(path / MANIFEST, most=LARGEST_JSON):
        return f"{MANIFEST} {strange}"
    try:
        sums = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    if not isinstance(sums, dict):
        return f"{MANIFEST} is not a JSON object"
    found = (_file_damage(path, name, expected) for name, expected in sums.items())
    return next((problem for problem in found if problem), None)


def _file_damage(folder: Path, name: str, expected: object) -> str | None:
    file, parts = folder / name, Path(name).parts
    try:
        on_the_way = (file, *file.parents[: len(parts) - 1]) if parts else ()
        if ".." in parts or Path(name).is_absolute() or any(part.is_symlink() for part in on_the_way):
            return f"{MANIFEST} names {name!r}, which lies outside the folder"
        if strange := strangeness(file):
            return f"{visible(name)} {strange}"
        return None if sha256(file) == expected else f"{visible(name)} does not match its checksum"
    except OSError as error:
        return f"{visible(name)} cannot be read ({error.strerror})"


def read_json(path: Path) -> Any:
    """The value of a small JSON file; a ValueError or OSError tells why there is none, of links and pipes as well."""
    strange = strangeness(path, most=LARGEST_JSON)
    if strange and path.exists():
        raise ValueError(f"it {strange}")
    return json.loads(path.read_bytes())


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path, *, names: str = ".+", of_living: bool = True) -> None:
    """Delete what killed processes left in `folder`; a folder that had just stepped aside comes back.

    Only what was to have one of the `names`, a pattern, and, unless `of_living`, is not of another process that lives:
    for whoever holds no lock against such processes.
    """
    for leftover in [*folder.glob(f"{_ASIDE}*"), *folder.glob(f"{TEMPORARY}*")]:
        parts = _LEFTOVER.fullmatch(leftover.name)
        if parts is None or not re.fullmatch(names, parts[2]) or not (of_living or _has_ended(int(parts[3]))):
            continue
        if parts[1] == _ASIDE and not (folder / parts[2]).exists():
            os.rename(leftover, folder / parts[2])
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _has_ended(pid: int) -> bool:
    """Whether what a process of this number left is no longer in use: nobody has it, or only this one, later.

    Of processes on another machine that shares the folder, a number says nothing.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return pid == os.getpid()


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, such that a power cut does not take them away again."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that what was made or renamed inside it survives a power cut."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems, of FUSE and SMB, cannot sync a folder and say so: PostgreSQL goes on there as well.
        if error.errno not in (errno.EINVAL, errno.EBADF) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _replace_folder(temporary: Path, path: Path) -> None:
    sync_folder(temporary)
    aside = path.with_name(f"{_ASIDE}{path.name}.{os.getpid()}")
    try:
        if path.exists():  # a folder cannot be renamed over a filled one: the old one steps aside first
            os.rename(path, aside)
        os.rename(temporary, path)
    except BaseException:  # Ctrl-C as well
        if aside.exists() and not path.exists():
            os.rename(aside, path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into one line that names the file and the way out."""
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number not in _WAYS_OUT:
            raise
        full = number in DISK_FULL
        what = "no space left on the disk" if full else f"cannot write here: {os.strerror(number)}"
        raise ResourceError(what, where=str(path), fix=_WAYS_OUT[number]) from error


def _system_error(error: Exception) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    told = _RUST_ERROR.search(str(error))
    return int(told[1]) if told else 0


class RunLock:
    """Holds a run folder for one process; the system lets go of it when the process ends, however it ends.

    Of another folder, `setting` is what named it.
    """

    def __init__(self, folder: Path, *, setting: str | None = None) -> None:
        self.path, self.setting = folder / ".lock", setting
        self._file: Any = None

    def __enter__(self) -> "RunLock":
        import fcntl

        with disk_errors(self.path.parent):
            make_folder(self.path.parent)
            self._file = open(self.path, "a+", opener=open_plain)  # held open for as long as the lock is
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise ResourceError(
                f"another process (pid {holder}) is using this {self.setting or 'run folder'}",
                where=str(self.path.parent),
                fix=f"wait for it to end, or choose another {self.setting or '--out'}",
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
