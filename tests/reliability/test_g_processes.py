"""Several processes: their number changes nothing, and one that is lost is named by the others."""

import itertools
import json
import os
import random
import re
import signal
import time

import pytest
from epochs_at_work import SLOTS, epoch
from processes import ROOT, end, start, together
from small_trainings import last_step, outcome, resume, settings_file, stopped, train
from tiny_runs import records

from pytorch_dl.doctor.kills import is_saving, newest_checkpoint
from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.peers import ALONE

ORDER = (2, 1, 4, 3, 2)  # processes of one life after another
STEPS = 600
SAVE_EVERY = 4  # of small_trainings
WAYS, MOMENTS = ("error", "SIGKILL", "SIGSTOP"), ("step", "save", "validation")
LOSSES = [  # of each rank, in an order in which any three far apart have nothing in common
    (MOMENTS[first], WAYS[(first + second) % 3], (first + second + third + 2) % 3)
    for first, second, third in itertools.product(range(3), repeat=3)
]
NAMES = re.compile(r"error: rank \d (?:lost|has not heard of) rank (\d)(?: or torchrun's own process)?(?: \(| for )")


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
def test_g4_a_process_that_is_lost(case, tmp_path):
    """Each of the others ends within a minute and names it; with all lives together come the bits of one."""
    config, run, slowest, again = settings_file(tmp_path), tmp_path / "run", 0.0, 0
    losses = case.some(LOSSES, quick=3)
    words = [f"training.max_steps={10 * len(losses) + 30}", "training.eval_every=6", "system.compile=false"]
    (alone,) = together(1, train(config, tmp_path / "straight", *words))
    assert alone.code == 0, alone.err
    for number, (moment, how, rank) in enumerate(losses):
        saved, (_, _, *command) = newest_checkpoint(run), resume(run) if number else train(config, run, *words)
        processes = start(3, [str(ROOT / "tests/lost_peer.py"), moment, how, str(rank), *command])
        lost = processes.pop(rank)
        asked = wait_until_lost(lost)
        told = end(processes, seconds=60)
        slowest = max(slowest, time.monotonic() - asked)
        lost.kill()
        (own,) = end([lost])
        assert own.code == (1 if how == "error" else -signal.SIGKILL), own
        for one in told:
            assert (one.code, NAMES.findall(one.err)) == (7, [str(rank)]), (moment, how, rank, told)
        assert is_saving(run) == ((moment, rank) == ("save", 0) and how != "error"), "it is to be torn"
        assert all(damage(path) is None for path in ckpt.checkpoints(run / "checkpoints"))
        again = max(again, last_step(run) - newest_checkpoint(run))
        assert newest_checkpoint(run) > saved and again <= SAVE_EVERY, (moment, how, rank)
    assert slowest <= 60
    ended = together(2, resume(run))
    assert [one.code for one in ended] == [0, 0], ended
    assert outcome(run) == outcome(tmp_path / "straight")
    case.survived(
        len(losses),
        injected="an error, kill -9 or SIGSTOP of one of three processes, in a step, a save or a validation",
        lost=f"no bit; at most {again} steps done again, of {SAVE_EVERY} between saves; "
        f"each of the others named it and ended within {slowest:.0f} s",
    )


def wait_until_lost(process):
    """Until it has died or stands still; returns when that was."""
    until = time.monotonic() + 300
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is None:
        assert time.monotonic() < until, "it is not lost"
        time.sleep(0.01)
    return time.monotonic()
