"""Any life of a training: steps, saves, kills, damage, resumes, other numbers of processes, rotation, in any order.

A machine of states draws what happens next. Whatever it is: weights, optimizer, moving average and record of each step
have the bits of a training that nothing happened to, what is damaged is not gone on from, and two whole checkpoints
stay once there were two.
"""

import functools
import hashlib
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults_of_files import damaged
from few_examples import fewer
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tiny import tiny_loader, tiny_trainer

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.doctor.faults import killed_at
from pytorch_dl.errors import CheckpointError, Interrupted
from pytorch_dl.files import TEMPORARY, damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.trainer import OptimizedTrainer

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # each step syncs
LONGEST = 40  # steps
SLOTS = 3  # batches of a step
SETTINGS = {
    "max_steps": 1000,
    "eval_every": 7,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": SLOTS,
    "keep_checkpoints": 2,
}


class SharedOut:
    """The batches as so many processes share them out, each with threads of its own."""

    def __init__(self, processes: int, workers: int) -> None:
        self.loaders = [tiny_loader(30, packed=True, max_tokens=20, workers=workers) for _ in range(processes)]

    def __len__(self) -> int:
        return len(self.loaders[0])

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        shares = []
        for rank, loader in enumerate(self.loaders):
            peers = Peers(rank, len(self.loaders))
            shares.append(loader.share(epoch, start, lambda slot, peers=peers: peers.is_mine((slot - start) % SLOTS)))
        for parts in zip(*shares, strict=True):
            (batch,) = [part for part in parts if part is not None]
            yield batch


def make(folder: Path, *, processes: int = 1, workers: int = 0, **settings: int) -> OptimizedTrainer:
    return tiny_trainer(folder, settings=SETTINGS | settings, train_dataloader=SharedOut(processes, workers))


def advance(trainer: OptimizedTrainer, step: int) -> None:
    """Train to a step and save it, as a signal there would have it."""
    with pytest.raises(Interrupted):
        trainer.train(stop_after=step)


def content(checkpoint: Path) -> str:
    """A checksum of the tensors of a checkpoint."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(checkpoint.glob("*.safetensors")))).hexdigest()


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


@functools.cache
def straight() -> tuple[dict[int, str], bytes]:
    """The tensors at each step, and the record, of a training that nothing happens to."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        trainer = make(Path(folder), save_every=1, keep_checkpoints=1000)
        advance(trainer, LONGEST)
        assert trainer.checkpoint_dir
        tensors = {step_of(path): content(path) for path in ckpt.checkpoints(trainer.checkpoint_dir)}
        return tensors, (Path(folder) / METRICS).read_bytes()


class Lives(RuleBasedStateMachine):
    """One training, from life to life; `spoilt` are the steps whose checkpoint was damaged since it was saved."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.processes, self.workers, self.keep, self.save_every = 1, 0, 2, 5
        self.spoilt: set[int] = set()
        self.had_two = False
        self.trainer: OptimizedTrainer | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @property
    def on_disk(self) -> list[Path]:
        return ckpt.checkpoints(self.folder / "checkpoints")

    @property
    def whole(self) -> list[int]:
        """Steps with a checkpoint that nobody damaged, newest first."""
        return [step for step in map(step_of, self.on_disk) if step not in self.spoilt]

    @initialize(steps=st.integers(1, 6))
    def begin(self, steps: int) -> None:
        self.trainer = self.life()
        advance(self.trainer, steps)

    @precondition(lambda self: self.trainer and self.trainer.state.step < LONGEST)
    @rule(steps=st.integers(1, 9))
    def train(self, steps: int) -> None:
        """Steps, with a save at some and at the last, and rotation."""
        assert self.trainer
        advance(self.trainer, min(LONGEST, self.trainer.state.step + steps))

    @precondition(lambda self: self.whole and self.whole[0] < LONGEST)
    @rule(steps=st.integers(1, 9), call=st.integers(1, 150))
    def kill(self, steps: int, call: int) -> None:
        """In a process that goes on with it, at a call of the file system: mostly in a save, or in rotation."""
        self.trainer = None

        def go_on() -> None:
            trainer = self.life()
            trainer.resume()
            advance(trainer, min(LONGEST, trainer.state.step + steps))

        killed_at(call, go_on)
        before, self.spoilt = self.spoilt, {step_of(path) for path in self.on_disk if damage(path)}
        for step in self.spoilt - before:
            assert sum(newer > step for newer in self.whole) >= 2, f"step {step} is half deleted before it may be"

    @rule(seed=st.integers(0, 2**32))
    @precondition(lambda self: self.whole)
    def corrupt(self, seed: int) -> None:
        rng = random.Random(seed)
        path = self.folder / "checkpoints" / ckpt.name_of(rng.choice(self.whole))
        damaged(path, rng)
        if damage(path):  # all but a manifest without its last line end
            self.spoilt.add(step_of(path))
        self.trainer, self.had_two = None, False

    @rule(processes=st.integers(1, 3), workers=st.integers(0, 2), keep=st.integers(2, 4), save_every=st.integers(1, 6))
    def resume(self, processes: int, workers: int, keep: int, save_every: int) -> None:
        """In another number of processes; from the newest that is whole."""
        self.processes, self.workers, self.keep, self.save_every = processes, workers, keep, save_every
        expected, found = self.whole, self.on_disk
        self.trainer = self.life()
        if not expected and found:
            with pytest.raises(CheckpointError, match=f"none of the {len(found)} checkpoints is whole"):
                self.trainer.resume()
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.trainer = self.life()
        assert self.trainer.resume() == bool(expected)
        assert self.trainer.state.step == (expected[0] if expected else 0)
        self.spoilt &= set(map(step_of, self.on_disk))

    @invariant()
    def what_is_whole_has_the_bits_of_its_step(self) -> None:
        tensors, record = straight()
        for path in self.on_disk:
            assert (damage(path) is None) == (step_of(path) not in self.spoilt)
            if step_of(path) not in self.spoilt:
                assert content(path) == tensors[step_of(path)], path.name
        written = (self.folder / METRICS).read_bytes() if (self.folder / METRICS).exists() else b""
        assert written == record[: len(written)]

    @invariant()
    def two_whole_ones_stay_and_no_more_than_are_kept(self) -> None:
        if self.trainer:
            assert len(self.whole) >= 2 or not self.had_two
            self.had_two |= len(self.whole) >= 2
            assert not list((self.folder / "checkpoints").glob(f"{TEMPORARY}*"))

    def life(self) -> OptimizedTrainer:
        return make(
            self.folder,
            processes=self.processes,
            workers=self.workers,
            keep_checkpoints=self.keep,
            save_every=self.save_every,
        )


TestLives = Lives.TestCase
TestLives.settings = settings(fewer(6), stateful_step_count=15)
