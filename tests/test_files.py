"""The durable writer: killed or failing at each of its calls, it leaves the old or the new, never neither."""

import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from failing_calls import failing_at, number_of_calls

from pytorch_dl.doctor.faults import Call, announced, killed_at
from pytorch_dl.errors import ResourceError
from pytorch_dl.files import (
    MANIFEST,
    RunLock,
    damage,
    new_folder,
    remove_leftovers,
    sha256,
    write_file,
    write_json,
)

OLD, NEW = {"a": b"old", "sub/b": b"b"}, {"a": b"new", "c": b"c"}


def fill(path: Path, files: dict[str, bytes]) -> None:
    with new_folder(path) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a whole folder, without its manifest."""
    assert damage(folder) is None
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    del found[MANIFEST]
    return found


class Case:
    """A path that holds something old, or nothing, and what writes something new there."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.path = kind, folder, folder / "thing"
        self.reset()

    def reset(self) -> None:
        remove_leftovers(self.folder)
        if self.kind == "file":
            write_file(self.path, b"old")
        elif self.kind == "folder":
            fill(self.path, OLD)
        elif self.path.exists():
            for file in sorted(self.path.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            self.path.rmdir()

    def write(self) -> None:
        write_file(self.path, b"new") if self.kind == "file" else fill(self.path, NEW)

    def state(self) -> str:
        """What is there: "old" or "new", and nothing else."""
        remove_leftovers(self.folder)
        assert [p.name for p in self.folder.iterdir()] in (["thing"], [])
        if self.kind == "new folder" and not self.path.exists():
            return "old"
        found = self.path.read_bytes() if self.kind == "file" else content(self.path)
        return {repr(b"old"): "old", repr(OLD): "old", repr(b"new"): "new", repr(NEW): "new"}[
            repr(found if isinstance(found, bytes) else dict(sorted(found.items())))
        ]


@pytest.fixture(params=["file", "folder", "new folder"])
def case(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and a process that dies loses nothing without it
    return Case(request.param, tmp_path)


@contextlib.contextmanager
def refusing_to_sync(error: int, *, folders: bool) -> Iterator[list[Call]]:
    """Let each sync of a folder, or each of a file, fail; returns those calls."""
    refused: list[Call] = []

    def fail(call: Call) -> None:
        if call.name == "fsync" and stat.S_ISDIR(os.fstat(call.arguments[0]).st_mode) == folders:
            refused.append(call)
            raise OSError(error, os.strerror(error))

    with announced(fail):
        yield refused


class TestFaults:
    def test_killed_at_each_call(self, case: Case) -> None:
        states = []
        while killed_at(len(states) + 1, case.write):
            states.append(case.state())
            case.reset()
        case.reset()
        assert len(states) == number_of_calls(case.write) >= 5
        assert states == sorted(states, reverse=True), "once it is new, it stays new"
        assert {"old", "new"} == set(states)

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EINTR])
    @pytest.mark.parametrize("and_after", [False, True], ids=["once", "from then on"])
    def test_each_call_fails(self, case: Case, error: int, and_after: bool) -> None:
        states = []
        calls = number_of_calls(case.write)
        for number in range(1, calls + 1):
            case.reset()
            raised = False
            try:
                with failing_at(number, error, and_after=and_after):
                    case.write()
            except (ResourceError, OSError):
                raised = True
            if not and_after:
                assert not list(case.folder.glob(".pytorch-dl-tmp-*"))
                assert case.path.exists() or case.kind == "new folder", "without a next start"
            states.append(case.state())
            assert raised or states[-1] == "new", "what is not written is told"
            case.write()
            assert case.state() == "new"
        assert {"old", "new"} == set(states)

    def test_interrupted_at_each_call(self, case: Case) -> None:
        """Between two renames as well: without a next start, the old is there or the new."""
        states = []
        for number in range(1, number_of_calls(case.write) + 1):
            case.reset()

            def interrupt(call: Call, at: int = number) -> None:
                if call.number == at:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt), announced(interrupt):
                case.write()
            assert case.path.exists() or case.kind == "new folder"
            states.append(case.state())
        assert {"old", "new"} == set(states)

    def test_after_a_kill_at_any_call_the_next_new_folder_cleans_up(self, tmp_path: Path) -> None:
        """Before it writes: where that fails, the old or the new of the killed one is there, and nothing else."""
        path, found = tmp_path / "thing", []
        fill(path, OLD)
        while killed_at(len(found) + 1, lambda: fill(path, NEW)):
            with pytest.raises(RuntimeError, match="half"), new_folder(path):
                raise RuntimeError("half")
            assert [p.name for p in tmp_path.iterdir()] == ["thing"]
            found.append(content(path))
            fill(path, OLD)
        assert OLD in found and NEW in found

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (errno.ENOSPC, "no space left on the disk. Fix: free some space and run again."),
            (errno.EFBIG, "no space left on the disk. Fix: free some space and run again."),
            (errno.EACCES, "cannot write here: Permission denied. Fix: choose a folder that you may write to."),
            (errno.EROFS, "cannot write here: Read-only file system. Fix: choose a folder that you may write to."),
            (errno.ENOTDIR, "cannot write here: Not a directory. Fix: choose another folder."),
            (errno.EIO, "cannot write here: Input/output error. Fix: check the disk and run again."),
        ],
    )
    def test_what_is_told(self, case: Case, error: int, message: str) -> None:
        with pytest.raises(ResourceError) as caught, failing_at(2, error):
            case.write()
        assert str(caught.value) == f"{case.path}: {message}"
        assert caught.value.exit_code == 6

    def test_other_errors_pass(self, case: Case) -> None:
        with pytest.raises(InterruptedError), failing_at(2, errno.EINTR):
            case.write()

    @pytest.mark.parametrize("error", [errno.EINVAL, errno.EBADF])
    def test_folders_that_cannot_be_synced(self, case: Case, error: int) -> None:
        """As on some file systems of networks; a file that cannot be is an error."""
        with refusing_to_sync(error, folders=True) as refused:
            case.write()
        assert case.state() == "new" and refused
        case.reset()
        with pytest.raises(OSError, match=os.strerror(error)), refusing_to_sync(error, folders=False):
            case.write()
        assert case.state() == "old"

    def test_a_folder_that_a_broken_disk_does_not_sync(self, case: Case) -> None:
        with pytest.raises(ResourceError, match="Input/output error"), refusing_to_sync(errno.EIO, folders=True):
            case.write()

    def test_errors_of_libraries_in_rust(self, tmp_path: Path) -> None:
        with pytest.raises(ResourceError, match="no space left"), new_folder(tmp_path / "x"):
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        with pytest.raises(RuntimeError, match="quite another"), new_folder(tmp_path / "x"):
            raise RuntimeError("quite another")
        assert not list(tmp_path.iterdir())

    def test_an_exception_while_filling_leaves_the_old(self, tmp_path: Path) -> None:
        fill(tmp_path / "x", OLD)
        with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "x") as folder:
            (folder / "a").write_bytes(b"half")
            raise KeyboardInterrupt
        assert content(tmp_path / "x") == OLD
        assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_order_of_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file, then the folder, then the rename, then the folder above: so a power cut finds old or new."""
    log: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "rename")}

    def sync(descriptor: int) -> None:
        log.append("sync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.replace(str(os.getpid()), "PID"))
        real["fsync"](descriptor)

    def move(old: Path, new: Path) -> None:
        log.append(f"move to {Path(new).name}")
        real["rename"](old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", move)
    monkeypatch.setattr(os, "replace", move)
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run" / "thing", NEW)
    assert log == [
        "sync a",
        "sync c",
        "sync .pytorch-dl-tmp-manifest.json.PID",
        "move to manifest.json",
        "sync .pytorch-dl-tmp-thing.PID",
        "sync .pytorch-dl-tmp-thing.PID",
        "move to thing",
        "sync run",
    ]


class TestNoPlainFile:
    def test_a_link_stays_and_its_file_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "file").write_text("old")
        (tmp_path / "link").symlink_to("elsewhere/file")
        write_file(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "elsewhere" / "file").read_text() == "new"
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "file", "link"]

    def test_a_pipe_is_written_to(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        write_file(tmp_path / "pipe", "new")
        assert os.read(reader, 9) == b"new"
        os.close(reader)
        assert (tmp_path / "pipe").is_fifo()

    @pytest.mark.parametrize("mode", ["w", "a"])
    def test_standard_output_keeps_what_it_has(self, mode: str, tmp_path: Path) -> None:
        code = "from pathlib import Path; from pytorch_dl.files import write_file; print('first')\n"
        code += "write_file(Path('/dev/stdout'), 'second\\n'); print('third')"
        with open(tmp_path / "out", mode) as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
        assert (tmp_path / "out").read_text() == "first\nsecond\nthird\n"

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(ResourceError, match=r"folder: cannot write here: Is a directory"):
            write_file(tmp_path / "folder", "new")


class TestLeftovers:
    def test_are_removed(self, tmp_path: Path) -> None:
        (tmp_path / ".pytorch-dl-tmp-x.7").mkdir()
        (tmp_path / ".pytorch-dl-tmp-x.7" / "f").write_text("half")
        (tmp_path / ".pytorch-dl-tmp-y.8").write_text("half")
        (tmp_path / "mine").write_text("mine")
        remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    def test_a_folder_that_had_stepped_aside_comes_back(self, tmp_path: Path) -> None:
        fill(tmp_path / "step-1.a", OLD)
        (tmp_path / "step-1.a").rename(tmp_path / ".pytorch-dl-old-step-1.a.77")
        remove_leftovers(tmp_path)
        assert content(tmp_path / "step-1.a") == OLD

    def test_of_a_folder_that_was_replaced_only_the_new_stays(self, tmp_path: Path) -> None:
        fill(tmp_path / "x", OLD)
        (tmp_path / "x").rename(tmp_path / ".pytorch-dl-old-x.77")
        fill(tmp_path / "x", NEW)
        remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert content(tmp_path / "x") == NEW

    def test_what_others_left_stays(self, tmp_path: Path) -> None:
        names = [".old-x.7", ".pytorch-dl-old-7", ".pytorch-dl-tmp-x", ".pytorch-dl-tmp-x.7.txt", ".tmp-x.7"]
        for name in names:
            (tmp_path / name).write_text("theirs")
        remove_leftovers(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == names

    def test_those_of_other_names_stay(self, tmp_path: Path) -> None:
        for name in ("x", "xy", "x.y"):
            (tmp_path / f".pytorch-dl-tmp-{name}.7").write_text("half")
        remove_leftovers(tmp_path, names="x")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".pytorch-dl-tmp-x.y.7", ".pytorch-dl-tmp-xy.7"]

    def test_those_of_the_living_stay_where_a_folder_is_made(self, tmp_path: Path) -> None:
        """As it may be made by several processes; a number that only this one has now is of one before it."""
        with subprocess.Popen(["true"]) as dead:
            pass
        for pid in (dead.pid, os.getpid(), os.getppid()):
            (tmp_path / f".pytorch-dl-tmp-x.{pid}").mkdir()
            fill(tmp_path / f".pytorch-dl-old-x.{pid}", OLD)
        fill(tmp_path / "x", NEW)
        names = [f".pytorch-dl-old-x.{os.getppid()}", f".pytorch-dl-tmp-x.{os.getppid()}", "x"]
        assert sorted(path.name for path in tmp_path.iterdir()) == names
        assert content(tmp_path / "x") == NEW

    def test_no_folder(self, tmp_path: Path) -> None:
        remove_leftovers(tmp_path / "none")


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        fill(tmp_path / "x", OLD)
        return tmp_path / "x"

    def test_none(self, folder: Path) -> None:
        assert damage(folder) is None
        assert json.loads((folder / MANIFEST).read_bytes()) == {name: sha256(folder / name) for name in OLD}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: (x / "a").write_bytes(b"olD"), "a does not match its checksum"),
            (lambda x: (x / "a").write_bytes(b""), "a does not match its checksum"),
            (lambda x: (x / "sub" / "b").unlink(), "sub/b is missing"),
            (lambda x: (x / MANIFEST).unlink(), "manifest.json is missing"),
            (lambda x: (x / MANIFEST).write_text("{"), "manifest.json cannot be read"),
            (lambda x: (x / MANIFEST).write_bytes(b"\xff"), "manifest.json cannot be read"),
            (lambda x: (x / MANIFEST).write_text("[" * 100_000), "manifest.json cannot be read"),
            (lambda x: (x / MANIFEST).write_text("[]"), "manifest.json is not a JSON object"),
        ],
    )
    def test_is_told(self, change: Callable[[Path], None], message: str, folder: Path) -> None:
        change(folder)
        assert str(damage(folder)).startswith(message)

    @pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/../../outside", "link", "up/outside"])
    def test_names_outside_are_refused(self, name: str, folder: Path) -> None:
        (folder.parent / "outside").write_text("x")
        (folder / "link").symlink_to("../outside")
        (folder / "up").symlink_to("..")
        target = Path("/etc/hostname") if name.startswith("/") else folder.parent / "outside"
        (folder / MANIFEST).write_text(json.dumps({name: sha256(target)}))
        assert damage(folder) == f"manifest.json names {name!r}, which lies outside the folder"

    @pytest.mark.parametrize("name", ["n" * 5000, "a\0b", "", ".", "sub", "a/b"])
    def test_impossible_names(self, name: str, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps({name: "0"}))
        assert any(word in str(damage(folder)) for word in ("missing", "cannot be read", "is not a plain file"))

    def test_pipes_are_not_read(self, folder: Path) -> None:
        (folder / "a").unlink()
        os.mkfifo(folder / "a")
        assert damage(folder) == "a is not a plain file"
        (folder / MANIFEST).unlink()
        os.mkfifo(folder / MANIFEST)
        assert damage(folder) == "manifest.json is not a plain file"

    @pytest.mark.parametrize("path", ["none", "file"])
    def test_no_folder(self, path: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert damage(tmp_path / path) == "manifest.json is missing"


def test_json_is_readable_and_exact(tmp_path: Path) -> None:
    write_json(tmp_path / "x" / "y.json", {"größe": 0.1, "n": [1, None]})
    assert (tmp_path / "x" / "y.json").read_text("utf-8") == (
        '{\n  "größe": 0.1,\n  "n": [\n    1,\n    null\n  ]\n}\n'
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "y.json", float("nan"))
    assert not (tmp_path / "y.json").exists()


HOLDER = """
import sys, time
from pathlib import Path
from pytorch_dl.files import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class TestRunLock:
    def test_a_second_process_is_told_who_holds_it(self, tmp_path: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            told = rf"^{tmp_path}: another process \(pid {child.pid}\) is using"
            with pytest.raises(ResourceError, match=told), RunLock(tmp_path):
                pass
            child.send_signal(signal.SIGKILL)
            child.wait()
        with RunLock(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid()), "a dead process holds nothing"

    def test_it_is_let_go(self, tmp_path: Path) -> None:
        for _ in range(2):
            told = "is using this run folder"
            with RunLock(tmp_path / "run"), pytest.raises(ResourceError, match=told), RunLock(tmp_path / "run"):
                pass


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_rights_in_a_folder_are_those_that_the_umask_leaves(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "x") as folder:
            (folder / "a").touch(0o600)
    finally:
        os.umask(before)
    rights = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").iterdir()}
    assert rights == {"a": 0o666 & ~mask, MANIFEST: 0o666 & ~mask}
