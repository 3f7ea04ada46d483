"""Several processes: their number changes nothing, and one that is lost is named by the others."""

import signal
import time

import pytest
from processes import end, start, together
from small_trainings import outcome, resume, settings_file, stopped, train, wait_for_step

from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt

ORDER = (2, 1, 4, 3, 2)  # processes of one life after another
STEPS = 600


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
            first, second, third = start(3, train(config, run, "training.max_steps=100000"))
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
            stopped(start(2, resume(run)), run, after=6 + number)
    case.survived(
        2 * rounds,
        injected="kill -9 or SIGSTOP of one of three processes",
        lost=f"nothing that was saved; the others ended within {slowest:.0f} s",
    )
