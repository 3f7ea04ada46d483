"""Going on: from every step, with what may be changed and what may not, and never two at once."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
from processes import end, start, together
from resuming import make, placed, trained
from small_trainings import last_step, outcome, resume, settings_file, train, wait_for_step
from test_no_dead_keys import CHANGES
from tiny import tiny_model
from tiny_runs import TINY, call, snapshot

from pytorch_dl.changes import FREE, changed_settings, flat_settings, look_at_changes
from pytorch_dl.config import Config, load_config, to_yaml
from pytorch_dl.config.load import checked, with_overrides, with_values
from pytorch_dl.errors import CheckpointError, Interrupted, ResourceError
from pytorch_dl.failures import told
from pytorch_dl.files import RunLock, sha256
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import compilation
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.trainer import OptimizedTrainer

STEPS = 60
# Of (packed, batches a step), such that 60 steps end two epochs.
PAIRS = {(False, 1): 44, (False, 4): 170, (True, 4): 370, (True, 1): 90}
Trace = dict[int, list[list[int]]]  # of each step, the pairs of each of its batches


def sixty_steps(folder: Path, *, packed: bool, accumulation: int, workers: int, **settings: Any) -> OptimizedTrainer:
    given = {"max_steps": STEPS, "gradient_accumulation_steps": accumulation, "ema_decay": 0.9, **settings}
    return make(folder, packed=packed, workers=workers, pairs=PAIRS[packed, accumulation], **given)


def traced(trainer: OptimizedTrainer) -> Trace:
    """Filled as the trainer trains."""
    trace: Trace = {}
    step = trainer.begin_step

    def begin_step(group: Any, *, total_steps: int) -> Any:
        ids = [[int(i) for i in batch.pair_ids.flatten() if i >= 0] for batch in group.batches.values()]
        trace[trainer.state.step + 1] = ids
        return step(group, total_steps=total_steps)

    trainer.begin_step = begin_step
    return trace


def refuse_twice_or_missing(trace: Trace, *, pairs: int) -> None:
    seen = [pair for step in trace.values() for batch in step for pair in batch]
    assert len(seen) > 2 * pairs, "it ends two epochs"
    for first in (0, pairs):
        assert sorted(seen[first : first + pairs]) == list(range(pairs))
    assert len(set(seen[2 * pairs :])) == len(seen[2 * pairs :])


def test_d5_from_every_step(case, memory):
    """Padded and packed, of one batch a step and four, over the ends of two epochs; by 0, 1 and 2 threads.

    In a night to the end each time, otherwise three steps far.
    """
    resumed = 0
    for packed, accumulation in case.some(list(PAIRS), quick=2):
        kind, folder = {"packed": packed, "accumulation": accumulation}, memory / f"{packed}-{accumulation}"
        whole = sixty_steps(folder / "whole", **kind, workers=0, save_every=1, keep_checkpoints=99)
        trace = traced(whole)
        expected = trained(whole)
        refuse_twice_or_missing(trace, pairs=PAIRS[packed, accumulation])
        places = [(step, workers) for step in range(1, STEPS + 1) for workers in range(3)]
        for step, workers in case.some(places, quick=8):
            place = placed(whole.checkpoint_dir / ckpt.name_of(step), folder / f"{step}-{workers}")
            again = sixty_steps(place, **kind, workers=workers)
            again.model.load_state_dict(tiny_model(seed=99).state_dict())
            assert again.resume()
            steps = traced(again)
            if case.size(0, 1):
                assert trained(again) == expected, f"{kind}, step {step}"
                last = STEPS
            else:
                last = min(STEPS - 1, step + 3)
                with pytest.raises(Interrupted):
                    again.train(stop_after=last)
                assert held(again, last) == held(whole, last), f"{kind}, step {step}"
            assert steps == {number: trace[number] for number in range(step + 1, last + 1)}
            resumed += 1
    how = "a resume from each of 60 steps, over two epoch ends, packed or not, with 0 to 2 threads"
    case.survived(resumed, injected=how, lost="no bit; no pair came twice or was missing")


def held(trainer: OptimizedTrainer, step: int) -> dict[str, object]:
    """What a checkpoint holds, without the time that training took."""
    path = trainer.checkpoint_dir / ckpt.name_of(step)
    tensors = {file.name: sha256(file) for file in path.glob("*.safetensors")}
    return {**tensors, "state": {**ckpt.read_state(path), "seconds": 0}}


def test_d5_a_resume_of_a_resume_of_a_resume(memory):
    kind = {"packed": True, "accumulation": 1}
    expected = trained(sixty_steps(memory / "whole", **kind, workers=0))
    for life, last in enumerate(range(7, STEPS, 7)):
        trainer = sixty_steps(memory / "run", **kind, workers=life % 3)
        assert trainer.resume() == bool(life)
        with pytest.raises(Interrupted):
            trainer.train(stop_after=last)
    trainer = sixty_steps(memory / "run", **kind, workers=0)
    assert trainer.resume()
    assert trained(trainer) == expected


def test_d7_each_changed_setting(case, memory):
    """A change of the result is refused, with both values, until it is accepted; any other is said."""
    for number, (leaf, (base, value, _, _)) in enumerate(CHANGES.items()):
        folder = RunFolder(memory / str(number))
        name = "data.corpora" if leaf.startswith("data.corpora") else leaf
        tiny = with_overrides(Config(), TINY)
        before, after = (checked(with_values(tiny, given)) for given in (base, {**base, name: value}))
        folder.note_begun(before)
        assert changed_settings(folder, after) == {}, "nothing is trained yet"
        (folder.checkpoints / ckpt.name_of(1)).mkdir(parents=True)
        changes, said = changed_settings(folder, after), list[str]()
        how = f"{name} from {flat_settings(before)[name]!r} to {flat_settings(after)[name]!r}"
        assert changed_settings(folder, before) == {}
        if name not in FREE:
            with pytest.raises(CheckpointError) as caught:
                look_at_changes(folder, after, changes, accepted=False, say=said.append)
            assert str(caught.value) == (
                f"{folder.path}: config.yaml was changed since training began: {how}. Fix: change it back, begin "
                "another run, or go on with it by `pytorch-dl resume --override`."
            )
        look_at_changes(folder, after, changes, accepted=name not in FREE, say=said.append)
        assert said == [f"changed in config.yaml since training began: {how}"]
    how = "a setting changed in the folder of a run"
    case.survived(len(CHANGES), injected=how, lost="nothing; both values are told")


def halted(folder: Path, capsys, monkeypatch) -> Path:
    """A run that was stopped at step 8 of 20."""
    with monkeypatch.context() as patched:
        patched.setattr(OptimizedTrainer, "train", partialmethod(OptimizedTrainer.train, stop_after=8))
        assert call(capsys, "train", settings_file(folder), "--out", folder / "run", *TINY).code == 75
    return folder / "run"


def change(run: Path, **settings: Any) -> None:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    (run / "config.yaml").write_text(to_yaml(with_values(load_config(run / "config.yaml"), named)))


class TestChanges:
    def test_d7_more_steps(self, memory, capsys, monkeypatch):
        run = halted(memory, capsys, monkeypatch)
        change(run, training__max_steps=30, training__learning_rate=0.01)
        before = snapshot(run)
        refused = call(capsys, "resume", run)
        assert refused.code == 4
        how = "training.learning_rate from 0.001 to 0.01, training.max_steps from 20 to 30"
        assert f"{run}: config.yaml was changed since training began: {how}. Fix: " in refused.error_lines[0]
        assert snapshot(run) == before
        accepted = call(capsys, "resume", run, "--override")
        assert accepted.code == 0, accepted.err
        assert how in accepted.err
        assert "of 30 steps" in accepted.err or "step 30" in accepted.err
        assert load_config(run / "begun.yaml").training.max_steps == 30

    def test_d7_another_precision(self, memory, capsys, monkeypatch):
        """What is said to be changed is changed: fp16 that overflows is told to go on in another one."""
        run = halted(memory, capsys, monkeypatch)
        checkpoints = RunFolder(run).checkpoints
        assert [ckpt.read_train_state(path).precision for path in ckpt.checkpoints(checkpoints)] == ["fp32"]
        for wanted, precision, steps in (("bf16", "bf16", 12), (False, "fp32", 16)):
            change(run, training__mixed_precision=wanted)
            with monkeypatch.context() as patched:
                patched.setattr(OptimizedTrainer, "train", partialmethod(OptimizedTrainer.train, stop_after=steps))
                result = call(capsys, "resume", run, "--override")
            assert result.code == 75, result.err
            state = ckpt.read_train_state(ckpt.checkpoints(checkpoints)[0])
            assert (state.step, state.precision) == (steps, precision)

    def test_d7_compiled_layers(self, memory, capsys, monkeypatch):
        """As of a run that goes on where there is no compiler."""
        run = halted(memory, capsys, monkeypatch)
        asked = []
        monkeypatch.setattr(compilation, "compile_layers", lambda *_, **__: asked.append("compiled"))
        change(run, system__compile=True)
        assert call(capsys, "resume", run).code == 4
        assert call(capsys, "resume", run, "--override").code == 0
        assert asked
        assert ckpt.read_train_state(ckpt.checkpoints(RunFolder(run).checkpoints)[0]).compiled

    def test_d7_another_model(self, memory, capsys, monkeypatch):
        run = halted(memory, capsys, monkeypatch)
        change(run, model__d_model=32)
        refused = call(capsys, "resume", run, "--override")
        assert refused.code == 4
        assert "the model expects" in refused.error_lines[0]

    def test_d7_what_is_free_leaves_the_bits(self, memory, capsys, monkeypatch):
        run = halted(memory, capsys, monkeypatch)
        change(
            run,
            training__save_every=3,
            training__keep_checkpoints=4,
            training__time_limit=3600,
            data__num_workers=2,
            data__prefetch_factor=1,
            data__pin_memory=False,
            data__cache_dir=str(memory / "cache"),
        )
        result = call(capsys, "resume", run)
        assert result.code == 0, result.err
        assert "data.num_workers from 0 to 2" in result.err
        assert call(capsys, "train", memory / "config.yaml", "--out", memory / "whole", *TINY).code == 0
        assert outcome(run) == outcome(memory / "whole")

    def test_d7_a_finished_run(self, memory, capsys):
        run = memory / "run"
        assert call(capsys, "train", settings_file(memory), "--out", run, *TINY).code == 0
        change(run, training__max_steps=30)
        before = snapshot(run)
        result = call(capsys, "resume", run)
        assert result.code == 0
        assert "is finished: nothing to do" in result.err
        assert snapshot(run) == before


def test_d8_two_on_one_folder(case, memory):
    """The second is told who holds it, until that one is killed, whatever has its number by then."""
    rounds = case.size(5, 50)
    for number in range(rounds):
        run = memory / str(number)
        holder, ready = forked(lambda run=run: RunLock(run).__enter__(), stays=True)
        assert os.read(ready, 1) == b"."
        message = rf"{run}: another process \(pid {holder}\) is using this run folder"
        with pytest.raises(ResourceError, match=message) as caught:
            RunLock(run).__enter__()
        assert caught.value.exit_code == 6
        (run / ".lock").write_text(str(os.getppid()))
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        os.close(ready)
        with RunLock(run):
            assert (run / ".lock").read_text() == str(os.getpid())
    case.survived(rounds, injected="a second process on a run folder; kill -9 of the first", lost="nothing")


def test_d8_begun_at_one_moment(case, memory):
    """One begins the run, the others are refused, and its configuration is that of the one."""
    for number in range(case.size(5, 50)):
        run, begin = RunFolder(memory / str(number)), time.monotonic() + 0.05
        children = [forked(partial(created, run, seed, begin=begin)) for seed in range(4)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
        for _, ready in children:
            os.close(ready)
        assert codes.count(0) == 1
        assert set(codes) <= {0, 2, 6}
        assert run.read_config().system.seed == codes.index(0)
        assert not list(run.path.glob(".pytorch-dl-*"))


def created(run: RunFolder, seed: int, *, begin: float) -> None:
    config = Config().update(system={"seed": seed})
    time.sleep(max(0, begin - time.monotonic()))
    run.create(config, beam_size=None)


def forked(action: Callable[[], object], *, stays: bool = False) -> tuple[int, int]:
    """A child that does it, and then stays or ends; returns its number and where it tells that it did."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kept = action()
            os.write(done, b".")
            while stays and kept:
                time.sleep(60)
            code = 0
        except Exception as error:
            code = told(error)[1]
        finally:
            os._exit(code)
    os.close(done)
    return child, ready


@pytest.mark.slow
def test_d8_processes(tmp_path):
    config, run = settings_file(tmp_path), tmp_path / "run"
    (first,) = start(1, train(config, run, "training.max_steps=100000"))
    wait_for_step(run, 10)
    (second,), (third,) = together(1, resume(run)), together(1, train(config, run))
    assert second.code == 6
    assert f"{run}: another process (pid {first.pid}) is using this run folder" in second.err
    assert third.code == 2
    assert f"{run}: the folder already holds a run" in third.err
    first.kill()
    end([first])
    done = last_step(run)
    (again,) = start(1, resume(run))
    wait_for_step(run, done + 20)
    again.send_signal(signal.SIGTERM)
    assert end([again])[0].code == 75
