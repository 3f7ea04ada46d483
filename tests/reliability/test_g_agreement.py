"""G5: all processes begin alike and end alike, whichever of them is told to."""

import re
import shutil
import signal
import socket

import pytest
from processes import ROOT, end, start, together
from small_trainings import last_step, outcome, resume, settings_file, stopped, train, wait_for_step
from tiny_runs import records, snapshot

from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt

LONG = ("training.max_steps=100000", "system.compile=false")  # until it is stopped
UNLIKE = ("system.seed=", "training.label_smoothing=0.", "model.dropout=0.", "data.train_data_path=text")  # + rank


@pytest.mark.slow
def test_g5_all_begin_and_end_alike(case, tmp_path):
    """After a signal to one of them, when nothing gets better any more, or not at all where they differ."""
    config, rounds = settings_file(tmp_path), case.size(1, 33)
    for number in range(rounds):
        stop_one(config, tmp_path / f"run{number}", number)
    counts, unlike = case.some([2, 3, 4], quick=1), case.some(UNLIKE, quick=1)
    for count in (1, *counts):
        stop_early(config, tmp_path / f"early{count}", count)
        assert outcome(tmp_path / f"early{count}") == outcome(tmp_path / "early1")
    for setting in unlike:
        differ(config, tmp_path / "unlike", setting)
    copies_differ(config, tmp_path / "copies")
    case.survived(
        rounds + len(counts) + len(unlike) + 2,
        injected="SIGTERM to one of several, early stopping, a setting that differs, a text with two lines swapped",
        lost="no step: one was saved by all; what differs was named before the start",
    )


def stop_one(config, run, number):
    count = 2 + number % 2
    processes = start(count, train(config, run, *LONG))
    wait_for_step(run, 3 + number)
    processes[-1 - number % count].send_signal(signal.SIGTERM)
    alike(end(processes), run)


def alike(ended, run):
    """All stopped after one step, which is saved and the last of the record."""
    assert [one.code for one in ended] == [75] * len(ended), ended
    told = [re.search(r"at step ([\d,]+), which is saved", one.err) for one in ended]
    assert all(told), ended
    (step,) = {int(found[1].replace(",", "")) for found in told}
    newest = ckpt.checkpoints(run / "checkpoints")[0]
    assert newest.name == f"step-{step:08d}" and damage(newest) is None
    assert max(line["step"] for line in records(run)) == step


def stop_early(config, run, count):
    words = ["training.eval_every=5", "training.early_stopping_patience=2", "training.early_stopping_min_delta=1000"]
    ended = together(count, train(config, run, *LONG, *words))
    assert [one.code for one in ended] == [0] * count, ended
    assert "no better val_loss in 2 validations, at step 15 " in ended[0].err


def differ(config, run, setting):
    ended = together(2, [*train(config, run), setting + "{rank}"])
    assert [one.code for one in ended] == [2, 2], ended
    assert f"the configuration: {setting.partition('=')[0]} is " in ended[1].err
    assert "not the same on rank 1 as on rank 0. Fix: start all processes" in ended[0].err
    assert not run.exists()


def copies_differ(config, run):
    """A path that leads to another text on rank 1: refused before the run has a folder, and when it goes on."""
    machines = [run.parent / f"machine{rank}" for rank in range(2)]
    for machine in machines:
        machine.mkdir()
        shutil.copy(run.parent / "text.tsv", machine)
    folder = str(run.parent / "machine{rank}")
    begin = [*train(config, run, *LONG), "data.train_data_path=text.tsv"]
    swap_lines(machines[1] / "text.tsv")
    refused(begin, folder)
    assert not run.exists()
    swap_lines(machines[1] / "text.tsv")
    stopped(start(2, begin, folder=folder), run, after=5)
    swap_lines(machines[1] / "text.tsv")
    before = snapshot(run)
    refused(resume(run), folder)
    assert snapshot(run) == before
    (machines[1] / "text.tsv").unlink()
    stopped(start(2, resume(run), folder=folder), run, after=last_step(run) + 5)


def swap_lines(text):
    """The first two: the pairs, their number and the vocabulary stay."""
    first, second, *others = text.read_text().splitlines(keepends=True)
    text.write_text("".join([second, first, *others]))


def refused(command, folder):
    ended = end(start(2, command, folder=folder))
    assert [one.code for one in ended] == [2, 2], ended
    assert "the fingerprints of the text: text.tsv is '" in ended[1].err
    assert "not the same on rank 1 as on rank 0. Fix: start all processes" in ended[0].err


@pytest.mark.parametrize("rank", [0, 1])
def test_g5_a_signal_in_a_validation(rank, tmp_path):
    """It is brought to its end by all, and noted; whoever left it would leave the others waiting."""
    run = tmp_path / "run"
    command = train(settings_file(tmp_path), run, *LONG, "training.eval_every=6")[2:]
    alike(together(2, [str(ROOT / "tests/lost_peer.py"), "validation", "SIGTERM", str(rank), *command]), run)
    assert [line["step"] for line in records(run) if line["kind"] == "validation"] == [6, 12]


def test_g5_a_port_that_is_taken(case, tmp_path, monkeypatch):
    config = settings_file(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in (("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(port))):
            monkeypatch.setenv(name, value)
        (ended,) = together(1, train(config, tmp_path / "run"))
    assert ended.code == 2, ended
    lines = [line for line in ended.err.splitlines() if line.startswith("pytorch-dl: ")]
    assert len(lines) == 1 and f"cannot meet at 127.0.0.1:{port} (" in lines[0], ended.err
    assert "Fix: give torchrun another --master-port" in lines[0]
