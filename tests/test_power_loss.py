"""The disk that loses power, on cases small enough to say what must be left."""

import os
import random
from pathlib import Path

from power_loss import SECTOR, Image, Recorder, image, images, torn


def recorded(folder: Path, *, syncs: tuple[str, ...]) -> Recorder:
    """A file is written under another name and moved to its own; `file` and `folder` are synced or not."""
    recorder = Recorder(folder)
    with recorder.recording():
        with open(folder / "new", "wb") as file:
            file.write(b"x" * SECTOR * 2)
            file.flush()
            if "file" in syncs:
                os.fsync(file.fileno())
        os.rename(folder / "new", folder / "name")
        if "folder" in syncs:
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        recorder.mark("done")
    return recorder


def seen(image: Image, folder: Path) -> dict[str, bytes]:
    image.write(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def found(recorder: Recorder, folder: Path, *, done: bool) -> list[dict[str, bytes]]:
    """What may be left of it, when all was done or at any moment."""
    events, rng = recorder.events, random.Random(1)
    endless = images(events, rng)
    if done:
        endless = (image(events, rng, kept=rng.choice((0.0, 0.5))) for _ in iter(int, 1))
    return [seen(next(endless), folder / str(number)) for number in range(60)]


def test_what_was_synced_is_there(tmp_path):
    (tmp_path / "disk").mkdir()
    recorder = recorded(tmp_path / "disk", syncs=("file", "folder"))
    whole = {"name": b"x" * SECTOR * 2}
    assert seen(image(recorder.events, random.Random(1), kept=1.0), tmp_path / "all") == whole
    assert all(left == whole for left in found(recorder, tmp_path / "done", done=True))
    at_any_moment = found(recorder, tmp_path / "any", done=False)
    assert whole in at_any_moment and {} in at_any_moment
    assert all(left.get("name", whole["name"]) == whole["name"] for left in at_any_moment), "never torn"


def test_what_was_not_synced_may_be_lost_or_torn(tmp_path):
    for without in ("file", "folder"):
        (tmp_path / without).mkdir()
        recorder = recorded(tmp_path / without, syncs=tuple({"file", "folder"} - {without}))
        left = found(recorder, tmp_path / f"left without {without}", done=True)
        torn_files = [files for files in left if "name" in files and len(set(files["name"])) != 1]
        assert any("name" not in files for files in left) == (without == "folder")
        assert bool(torn_files) == (without == "file")


def test_a_removed_file_may_come_back(tmp_path):
    (tmp_path / "disk").mkdir()
    recorder = Recorder(tmp_path / "disk")
    with recorder.recording():
        (tmp_path / "disk" / "old").write_bytes(b"old")
        for name in ("old", "."):
            descriptor = os.open(tmp_path / "disk" / name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        (tmp_path / "disk" / "old").unlink()
    left = found(recorder, tmp_path / "left", done=True)
    assert {} in left and {"old": b"old"} in left


def test_sectors_are_old_or_new():
    rng = random.Random(1)
    old, new = b"o" * SECTOR * 3, b"n" * SECTOR * 5
    for _ in range(100):
        left = torn(old, new, lambda: rng.random() < 0.5, rng)
        assert len(old) <= len(left) <= len(new)
        for start in range(0, len(left), SECTOR):
            assert len(set(left[start : start + SECTOR])) == 1
    assert torn(old, new, lambda: True, rng) == new
    assert torn(old, new, lambda: False, rng)[: len(old)] == old
