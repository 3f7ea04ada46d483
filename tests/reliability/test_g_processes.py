"""Several processes: their number changes nothing, and one that is lost is named by the others."""

import json
import random
import signal
import time

import pytest
from epochs_at_work import SLOTS, epoch
from processes import ROOT, end, start, together
from small_trainings import last_step, outcome, resume, settings_file, stopped, train, wait_for_step
from tiny_runs import records

from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.peers import ALONE

ORDER = (2, 1, 4, 3, 2)  # processes of one life after another
STEPS = 600


@pytest.mark.slow
def test_g1_any_number_of_processes(case, tmp_path):
    """1, 2, 3 and 4, with dropout: the same record of each step, the same bits."""
    config, steps = settings_file(tmp_path), case.size(12, 200)
    words = [f"training.max_steps={steps}", "training.eval_every=6"]
    for count in (1, *case.some([2, 3, 4], quick=2)):
        run = tmp_path / f"of{count}"
        ended = together(count, train(config, run, *words))
        assert [one.code for one in ended] == [0] * count, ended
        assert outcome(run) == outcome(tmp_path / "of1")
    noted = [line for line in records(tmp_path / "of1") if line["kind"] == "train"]
    assert [line["step"] for line in noted] == list(range(1, steps + 1))
    case.survived(steps, injected="steps by 1, 2, 3 and 4 processes; dropout on", lost="no bit of weights and record")


@pytest.mark.slow
def test_g3_texts_that_processes_do_not_divide(case, tmp_path):
    """Each pair is trained on once and validated on once, by one of them; what all know is what one process knows."""
    rng = random.Random(1)
    sizes = [(1, 1), (9, 1), (513, 1)][: case.size(2, 3)]
    sizes += [(rng.randint(1, 600), rng.randint(1, 60)) for _ in range(case.size(0, 47))]
    words = [f"{train_pairs},{val_pairs}" for train_pairs, val_pairs in sizes]
    ended = end(start(SLOTS, [str(ROOT / "tests/epochs_at_work.py"), str(tmp_path), *words]), seconds=60 * len(sizes))
    assert [one.code for one in ended] == [0] * SLOTS, ended
    idle = 0
    for train_pairs, val_pairs in sizes:
        each = [json.loads((tmp_path / f"{train_pairs}-{val_pairs}-{rank}.json").read_text()) for rank in range(SLOTS)]
        alone = epoch(train_pairs, val_pairs, ALONE)
        for name, count in (("train", train_pairs), ("val", val_pairs)):
            assert sorted(pair for own in each for pair in own[name]) == list(range(count))
        assert [own["all"] for own in each] == [alone["all"]] * SLOTS
        idle += sum(not own["val"] for own in each)
    assert idle >= 3, "no process was without a batch to validate on"
    case.survived(
        len(sizes),
        injected="1 to 600 pairs, 1 to 60 of validation on 4 processes",
        lost=f"no pair, none twice; {idle} times a process had none to validate on",
    )


@pytest.mark.slow
def test_g2_another_number_of_processes_in_each_life(case, tmp_path):
    """2, 1, 4, 3 and 2 again, each stopped by a signal to one of them: the bits of one that was never stopped."""
    config, rounds = settings_file(tmp_path), case.size(1, 4)
    steps = f"training.max_steps={STEPS}"
    (alone,) = together(1, train(config, tmp_path / "straight", steps))
    assert alone.code == 0, alone.err
    changes = 0
    for number in range(rounds):
        run = tmp_path / f"run{number}"
        for life, count in enumerate(ORDER[:-1]):
            begun = start(count, resume(run) if life else train(config, run, steps))
            stopped(begun, run, after=STEPS // 6 * (life + 1) + 7 * number)
            changes += 1
        ended = together(ORDER[-1], resume(run))
        assert [one.code for one in ended] == [0] * ORDER[-1], ended
        assert outcome(run) == outcome(tmp_path / "straight")
    case.survived(
        changes,
        injected="a stop, then another number of processes: 2, 1, 4, 3, 2; dropout on",
        lost="no bit of weights, optimizer, moving average and record",
    )


@pytest.mark.slow
def test_g4_a_process_that_dies_or_freezes(case, tmp_path):
    """The others end within a minute, name it, and the run goes on from a whole checkpoint."""
    config, rounds, slowest = settings_file(tmp_path), case.size(1, 30), 0.0
    for number in range(rounds):
        for how in (signal.SIGKILL, signal.SIGSTOP):
            run = tmp_path / f"run{number}{how.name}"
            first, second, third = start(3, train(config, run, "training.max_steps=100000", "system.compile=false"))
            wait_for_step(run, 5 + number)
            second.send_signal(how)
            asked = time.monotonic()
            told = end([first, third], seconds=60)
            slowest = max(slowest, time.monotonic() - asked)
            second.kill()
            end([second])
            assert [one.code for one in told] == [7, 7], told
            assert any("rank 1" in one.err for one in told), told
            assert damage(ckpt.checkpoints(run / "checkpoints")[0]) is None
            noted = last_step(run)  # of what the record holds already it would not be known whether they train yet
            stopped(start(2, resume(run)), run, after=noted + 1)
    case.survived(
        2 * rounds,
        injected="kill -9 or SIGSTOP of one of three processes",
        lost=f"nothing that was saved; the others ended within {slowest:.0f} s",
    )
