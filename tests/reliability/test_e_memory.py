"""Memory that does not suffice, and processes that die: the batch is named, and nobody is left behind."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import end, start
from resuming import make, straight, trained
from small_trainings import resume, settings_file, stopped, train, wait_for_step
from tiny_runs import TINY, environment, write_tsv

from pytorch_dl.errors import ResourceError
from pytorch_dl.failures import told
from pytorch_dl.models.compilers import missing_for_compilation
from pytorch_dl.training import step as step_module

SETTINGS = {"max_steps": 6, "save_every": 1, "gradient_accumulation_steps": 2, "ema_decay": 0.9}
REFUSALS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried 9"),
    MemoryError(),
)


def test_e5_refused_in_any_batch(case, memory, monkeypatch):
    """The line names step, batch, lengths and tokens; the weights are those of the step before."""
    straight(**SETTINGS)
    compute = step_module.batch_loss
    refusals = [(number, error) for number in range(1, 10) for error in REFUSALS]  # the epoch of 4 batches has 2 steps
    refusals = case.some(refusals, quick=9)
    for number, error in refusals:
        run, asked, batches = memory / f"{number}-{type(error).__name__}", [0], []

        def refused(model, batch, *, number=number, error=error, asked=asked, batches=batches, **rest):
            asked[0] += model.training
            batches.append(batch)
            if asked[0] == number:
                raise error
            return compute(model, batch, **rest)

        trainer = make(run, **SETTINGS)
        with monkeypatch.context() as patched, pytest.raises(ResourceError) as caught:
            patched.setattr(step_module, "batch_loss", refused)
            trainer.train()
        at, batch = trainer.state.step, batches[-1]
        line, code = told(caught.value)
        assert code == 6
        assert re.fullmatch(
            rf"out of memory at step {at} on its batch [12]: {batch.src.size(0)} rows of {batch.src.size(1)} source "
            rf"and {batch.tgt_in.size(1)} target positions, {batch.num_src_tokens + batch.num_tgt_tokens} tokens in "
            r"all; [\d,]+ MB were in use at most\. Fix: lower data\.max_tokens_per_batch, .*",
            line,
        )
        again = make(run, **SETTINGS)
        assert again.resume() == (at > 1)
        if at > 1:
            assert again.state.step == at - 1
            for one, other in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
                assert torch.equal(one, other)
        assert trained(again) == straight(**SETTINGS)
    case.survived(len(refusals), injected="memory that is refused in any batch of a step", lost="no step before it")


LIMITED = """
import resource, sys
from pathlib import Path
from pytorch_dl import process
from pytorch_dl.entry import main
from pytorch_dl.training.trainer import OptimizedTrainer

process._large_pages_are_cheap = lambda: False  # they are reserved before, and a step would find room in them
begin, more = OptimizedTrainer.begin_step, int(sys.argv.pop(1))

def begin_step(trainer, *given, **named):
    if trainer.state.step == 0:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
    return begin(trainer, *given, **named)

OptimizedTrainer.begin_step = begin_step
main()
"""


@pytest.mark.slow
def test_e5_a_limit_of_the_system(case, tmp_path):
    """RLIMIT_AS from the first step on: 6, one line, and without it training goes on."""
    text = write_tsv(tmp_path / "text.tsv", 3000)
    rng, named = random.Random(5), 0
    for number in range(case.size(2, 30)):
        run = tmp_path / str(number)
        sizes = ["model.d_model=128", "model.d_ff=1024", "data.layout=padded", "data.max_tokens_per_batch=8000"]
        training = ["training.max_steps=6", "training.save_every=1", "training.eval_every=100"]
        config = tmp_path / "config.yaml"
        config.write_text(f"data: {{train_data_path: {text}, val_split: 12}}\n")
        command = ["train", str(config), "--out", str(run), *TINY, *sizes, *training]
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(rng.randrange(1 << 20, 16 << 20)), *command],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 6, done.stderr
        assert "Traceback" not in done.stderr
        line = done.stderr.splitlines()[-1]
        assert re.match(r"pytorch-dl: error: out of memory( at step 1 on its batch 1: \d+ rows|\. Fix)", line), line
        named += "on its batch" in line
        assert end(start(1, resume(run)))[0].code == 0
    assert named


def shared_memory() -> set[str]:
    """Where torch and Python name what processes share."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("torch_", "psm_", "sem."))}


def members(session: int) -> list[int]:
    """The processes of a session that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_e6_nobody_is_left_behind(case, tmp_path):
    """After kill -9: no process, no shared memory, no lock. Batches are made by threads: there is no worker to kill."""
    config, rounds, rng = settings_file(tmp_path), case.size(2, 50), random.Random(6)
    shared = shared_memory()
    for number in range(rounds):
        run, compiled = tmp_path / str(number), number == 1 and not missing_for_compilation("cpu")
        options = ["data.num_workers=2", "training.max_steps=100000", f"system.compile={str(compiled).lower()}"]
        process = subprocess.Popen(
            [sys.executable, *train(config, run, *options)],
            env=environment(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for_step(run, rng.randint(1, 30))
        assert compiled or members(process.pid) == [process.pid]
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while members(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert members(process.pid) == []
        assert shared_memory() <= shared
        stopped(start(1, resume(run)), run, after=40)
    how = "kill -9 of a training with threads that make batches"
    case.survived(rounds, injected=how, lost="nothing; no process, file or lock is left")


@pytest.mark.parametrize(("at", "workers"), [(1, 1), (9, 2)])
def test_e6_a_thread_that_fails(at, workers, memory, monkeypatch):
    """Its error ends training, with its exit code, rather than leave it waiting."""
    trainer = make(memory / "run", workers=workers, save_every=1)
    loader, made = trainer.train_dataloader, [0]
    batch = loader._batch

    def failing(plan, index):
        made[0] += 1
        if made[0] == at:
            raise MemoryError
        return batch(plan, index)

    monkeypatch.setattr(loader, "_batch", failing)
    with pytest.raises(MemoryError) as caught:
        trainer.train()
    assert told(caught.value)[1] == 6
    again = make(memory / "run", workers=workers, save_every=1)
    again.resume()
    assert trained(again) == straight(save_every=1)
