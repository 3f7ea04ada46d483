"""A disk that loses power: what is done to a folder is recorded, and folders are built as a power cut may leave them.

Recorded is what changes in the folder between one call to the file system and the next, whoever changes it, and each
sync. At a power cut all is there that was synced before; of the rest, anything: a write is torn into sectors, each of
which reached the disk or did not, and entries of folders were made, moved or removed, or were not, in any order.
"""

import io
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pytorch_dl.doctor.faults import Call, announced

SECTOR = 512
ROOT = 0  # the number of the recorded folder; files and folders below it have others, whatever they are called
KEPT = (0.0, 0.3, 0.7, 1.0)  # shares of what was not synced that reach the disk
_open = io.open  # as it is while nothing is recorded: what the recorder reads is no event


class Place(NamedTuple):
    """A name in a folder."""

    folder: int
    name: str


@dataclass(frozen=True)
class Written:
    """A file has this content now."""

    node: int
    content: bytes


@dataclass(frozen=True)
class Moved:
    """A file or folder is at another place: at none before where it was made, at none now where it was removed."""

    node: int
    before: Place | None
    now: Place | None

    @property
    def folder(self) -> int:
        """Whose sync makes it last."""
        place = self.now or self.before
        assert place is not None
        return place.folder


@dataclass(frozen=True)
class Synced:
    """Of a file its content, or of a folder its entries are on the disk."""

    node: int


@dataclass(frozen=True)
class Mark:
    """A moment that has a name."""

    name: str


Event = Written | Moved | Synced | Mark
Files = Mapping[int, bytes]
Places = Mapping[Place, int]


class Recorder:
    """While `recording`, notes all that happens to a folder and to everything in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events = folder, list[Event]()
        self._numbers: dict[tuple[int, int], int] = {}  # of inodes
        self._made = ROOT
        self._files: Files = {}
        self._places: Places = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note what happens within."""
        self._look()
        with announced(self._before):
            yield
        self._look()

    def mark(self, name: str) -> None:
        """Give this moment a name."""
        self._look()
        self.events.append(Mark(name))

    def _before(self, call: Call) -> None:
        self._look()
        if call.name == "fsync":
            number = self._numbers.get(_inode(os.fstat(call.arguments[0])))
            self.events += [] if number is None else [Synced(number)]

    def _look(self) -> None:
        """Note what has changed since the last look."""
        files, places = dict[int, bytes](), dict[Place, int]()
        numbers = {_inode(os.stat(self.folder)): ROOT}
        self._scan(self.folder, ROOT, numbers, files, places)
        before = {number: place for place, number in self._places.items() if places.get(place) != number}
        now = {number: place for place, number in places.items() if self._places.get(place) != number}
        replaced = {number for number, place in before.items() if place in places and number not in now}
        self.events += [Written(n, content) for n, content in files.items() if self._files.get(n) != content]
        self.events += [Moved(number, before.get(number), place) for number, place in now.items()]
        self.events += [Moved(n, place, None) for n, place in before.items() if n not in now and n not in replaced]
        self._numbers, self._files, self._places = numbers, files, places

    def _scan(
        self,
        folder: Path,
        number: int,
        numbers: dict[tuple[int, int], int],
        files: dict[int, bytes],
        places: dict[Place, int],
    ) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            inode = _inode(entry.stat(follow_symlinks=False))
            if inode not in self._numbers:
                self._made += 1
            child = numbers[inode] = self._numbers.get(inode, self._made)
            places[Place(number, entry.name)] = child
            if entry.is_dir(follow_symlinks=False):
                self._scan(Path(entry), child, numbers, files, places)
            else:
                with _open(entry.path, "rb") as file:
                    files[child] = file.read()


@dataclass(frozen=True)
class Image:
    """What a power cut left, and the names of the moments that had passed."""

    files: Files
    places: Places
    passed: list[str]

    def write(self, folder: Path) -> None:
        """Make the folder that is found after the cut."""
        folder.mkdir(parents=True)
        self._write(folder, ROOT)

    def _write(self, folder: Path, number: int) -> None:
        for place, child in self.places.items():
            if place.folder != number:
                continue
            path = folder / place.name
            if child in self.files:
                path.write_bytes(self.files[child])
            else:
                path.mkdir()
                self._write(path, child)


def images(events: list[Event], rng: random.Random) -> Iterator[Image]:
    """Folders as a power cut at a random moment may leave them, without end."""
    while True:
        yield image(events[: rng.randint(0, len(events))], rng, kept=rng.choice(KEPT))


def image(events: list[Event], rng: random.Random, *, kept: float) -> Image:
    """What is left of the events: all that was synced, and such a share of the rest."""

    def chance() -> bool:
        return rng.random() < kept

    last_sync = {event.node: at for at, event in enumerate(events) if isinstance(event, Synced)}
    files: dict[int, bytes] = {event.node: b"" for event in events if isinstance(event, Written)}
    places: dict[Place, int] = {}
    for at, event in enumerate(events):
        if isinstance(event, Written):
            lasts = last_sync.get(event.node, -1) > at
            files[event.node] = event.content if lasts else torn(files[event.node], event.content, chance, rng)
        elif isinstance(event, Moved) and (last_sync.get(event.folder, -1) > at or chance()):
            if event.before and places.get(event.before) == event.node:
                del places[event.before]
            if event.now:
                places[event.now] = event.node
    return Image(files, places, [event.name for event in events if isinstance(event, Mark)])


def torn(old: bytes, new: bytes, reached: Callable[[], bool], rng: random.Random) -> bytes:
    """A file while a write to it is on its way: each sector is old or new, and so is the length, or in between."""
    lengths = sorted((len(old), len(new)))
    length = len(new) if reached() else rng.choice([len(old), rng.randint(*lengths)])
    parts = []
    for start in range(0, length, SECTOR):
        stop = min(length, start + SECTOR)
        source = new if reached() else old
        parts.append(source[start:stop].ljust(stop - start, b"\0"))
    return b"".join(parts)


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
