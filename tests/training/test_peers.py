"""Training in several processes: the bits of one, whatever their number; and what happens when one is lost."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from peers_at_work import bits, gradients_of
from processes import ROOT, end, start, together
from small_trainings import outcome, resume, settings_file, stopped, train, wait_for_step

from pytorch_dl.errors import PeerLostError
from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.heartbeat import Heartbeat
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.run_folder import RunFolder


class TestExchanges:
    @pytest.mark.parametrize("count", [2, 3])
    def test_what_all_know_afterwards(self, count: int, tmp_path: Path) -> None:
        ended = together(count, [str(ROOT / "tests" / "peers_at_work.py"), str(tmp_path / "found.json")])
        assert [one.code for one in ended] == [0] * count, ended
        every = json.loads((tmp_path / "found.json").read_text())
        assert len(every) == count
        for rank, found in enumerate(every):
            assert found["sum"] == [sum(range(count)), count]
            assert found["told"] == {"from": 0, "text": "ä\n"}
            assert found["mine"] == list(range(rank, 7, count))
            for slots in (1, 4, 5):
                expected = [*gradients_of(0)]
                for slot in range(1, slots):
                    for number, gradient in enumerate(gradients_of(slot)):
                        before = expected[number]
                        if gradient is not None:
                            expected[number] = gradient if before is None else before + gradient
                assert found[f"gradients of {slots}"] == [bits(total) for total in expected]
                assert [total is None for total in expected] == [False, False, slots == 1, True]
        if count == 3:
            assert every[2]["refused"] == (
                "the processes differ: seed is 1 on rank 2 and 0 on rank 0. "
                "Fix: start all processes with the same command, files and versions."
            )
            assert every[0]["refused"].startswith("the processes differ: not the same on rank 2 as on rank 0. Fix: ")
        else:
            assert "refused" not in every[0]

    def test_alone_nothing_is_exchanged(self) -> None:
        peers = Peers()
        assert peers.is_first
        assert peers.tell("x") == "x"
        assert all(map(peers.is_mine, range(5)))
        assert peers.add_up(torch.ones(2)).tolist() == [1.0, 1.0]
        assert peers.in_turn(lambda: 3) == 3

    def test_an_error_that_is_not_of_the_group_stays_what_it_is(self) -> None:
        """Where no heartbeat tells whether all are there: in a process group of the user's own making."""
        peers = Peers(0, 2)
        with pytest.raises(RuntimeError, match="shapes do not fit") as caught, peers.together():
            raise RuntimeError("shapes do not fit")
        assert not isinstance(caught.value, PeerLostError)
        for kind in (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError):
            with pytest.raises(PeerLostError, match=r"rank 0 lost another process \(it hung up\)"), peers.together():
                raise kind("it hung up")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that names 75 pairs, 13 of them to validate on."""
    return settings_file(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def straight(config: Path) -> dict[str, str]:
    """What one process leaves that was never stopped."""
    run = config.parent / "straight"
    (ended,) = together(1, train(config, run))
    assert ended.code == 0, ended.err
    return outcome(run)


OTHERWISE = """
import os, time, types
from pytorch_dl.entry import main
from pytorch_dl.training import compilation, trainer
first = os.environ["RANK"] == "0"
trainer.choose_precision = lambda *_: "fp32" if first else "bf16"
compilation.compiles = lambda *_, **__: not first
if not first:
    trainer.time = types.SimpleNamespace(monotonic=lambda: 3 * time.monotonic())
main()
"""


class TestTraining:
    @pytest.mark.parametrize(
        ("layout", "count"),
        [
            ("packed", 3),
            ("padded", 2),
            pytest.param("packed", 4, marks=pytest.mark.slow),
            pytest.param("padded", 3, marks=pytest.mark.slow),
        ],
    )
    def test_any_number_of_processes_makes_the_same_bits(
        self, count: int, layout: str, config: Path, straight: dict[str, str], tmp_path: Path
    ) -> None:
        """Three do not divide the four batches of a step, nor the last step of an epoch."""
        if layout == "padded":
            assert together(1, train(config, tmp_path / "alone", f"data.layout={layout}"))[0].code == 0
            straight = outcome(tmp_path / "alone")
        ended = together(count, train(config, tmp_path / "run", f"data.layout={layout}"))
        assert [one.code for one in ended] == [0] * count, ended
        assert outcome(tmp_path / "run") == straight
        assert "translate with" in ended[0].err
        assert not ended[1].err

    def test_weights_without_a_gradient_are_left_alone(self, tmp_path: Path) -> None:
        """One that no batch uses, and one that some batches use."""
        script, found = str(ROOT / "tests" / "unused_at_work.py"), {}
        for count in (1, 2, 3):
            ended = together(count, [script, str(tmp_path / f"{count}-{{rank}}.json")])
            assert [one.code for one in ended] == [0] * count, ended
            found[count] = [json.loads((tmp_path / f"{count}-{rank}.json").read_text()) for rank in range(count)]
        (alone,) = found[1]
        assert alone["unused"]["bits"] == [1.0] * 4
        assert alone["unused"]["steps"] == 0 < alone["sometimes"]["steps"] < alone["src_embedding.weight"]["steps"] == 5
        for count in (2, 3):
            assert found[count] == [alone] * count

    def test_another_number_goes_on(self, config: Path, straight: dict[str, str], tmp_path: Path) -> None:
        run = tmp_path / "run"
        stopped(start(2, train(config, run)), run, after=10)
        stopped(start(1, resume(run)), run, after=40)
        stopped(start(4, resume(run)), run, after=70)
        ended = together(3, resume(run))
        assert [one.code for one in ended] == [0] * 3, ended
        assert outcome(run) == straight

    def test_what_the_first_decides(self, config: Path, straight: dict[str, str], tmp_path: Path) -> None:
        """The second would train in another precision, and compile."""
        command = train(config, tmp_path / "run", "training.mixed_precision=true")[2:]
        ended = together(2, ["-c", OTHERWISE, *command])
        assert [one.code for one in ended] == [0, 0], ended
        assert outcome(tmp_path / "run") == straight

    def test_the_clock_of_the_first_ends_it(self, config: Path, tmp_path: Path) -> None:
        """The second one's is three times as fast."""
        limit = ["training.time_limit=2s", "training.max_steps=100000", "system.compile=false"]
        ended = together(2, ["-c", OTHERWISE, *train(config, tmp_path / "run", *limit)[2:]])
        assert [one.code for one in ended] == [0, 0], ended
        assert "training ended: the time limit of " in ended[0].err
        assert RunFolder(tmp_path / "run").is_finished

    def test_more_processes_than_batches(self, config: Path, tmp_path: Path) -> None:
        ended = together(2, train(config, tmp_path / "run", "training.gradient_accumulation_steps=1"))
        assert [one.code for one in ended] == [2, 2]
        assert ended[1].err == (
            "pytorch-dl: error: training.gradient_accumulation_steps is 1: a step has fewer batches than there are "
            "processes (2), and some would have nothing to do. Fix: set it to 2 or more, and data.max_tokens_per_batch "
            "to what one of them is to take.\n"
        )

    def test_processes_with_other_settings(self, config: Path, tmp_path: Path) -> None:
        """As when the command was changed on one machine only."""
        ended = together(2, [*train(config, tmp_path / "run"), "system.seed={rank}"])
        assert [one.code for one in ended] == [2, 2]
        assert "the configuration: system.seed is 1 on rank 1 and 0 on rank 0. Fix: start all" in ended[1].err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)], ids=["killed", "frozen"]
    )
    def test_a_lost_process_ends_the_others(self, how: signal.Signals, config: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        first, second = start(2, train(config, run, "training.max_steps=100000"))
        wait_for_step(run, 5)
        second.send_signal(how)
        told = end([first], seconds=60)[0]
        second.kill()  # a frozen one too
        end([second])
        assert told.code == 7
        assert "rank 1" in told.err.splitlines()[-1]
        assert "Fix: start all processes again: training goes on from the last checkpoint" in told.err
        (newest,) = [path for path in ckpt.checkpoints(run / "checkpoints")[:1] if damage(path) is None]
        assert int(newest.name.removeprefix("step-")) >= 4


WAITING = """
import functools, torch
from datetime import timedelta
from torch.distributed.distributed_c10d import _get_default_store
from pytorch_dl.training import peers as module
module.Heartbeat = functools.partial(module.Heartbeat, beat=0.2, lost=2.0)
with module.joined(torch.device("cpu")) as peers:
    if peers.rank == {waits}:
        try: _get_default_store().wait(["never"], timedelta(seconds=6))
        except torch.distributed.DistStoreError: waited = True
        assert waited
    peers.wait()
"""


class Silent:
    """A store in which only one other process beats."""

    def __init__(self) -> None:
        self.counts = {"0": 0, "1": 0, "2": 0}

    def add(self, key: str, amount: int) -> int:
        self.counts[key] += amount
        self.counts["1"] += 1
        return self.counts[key]


def test_the_one_that_does_not_beat_is_named() -> None:
    heartbeat = Heartbeat(Silent(), rank=0, size=3, beat=0.05, lost=60)
    with heartbeat:
        assert heartbeat.who_is_lost() == "rank 2"


RESTARTED = """
import os, time, torch
from pytorch_dl.training.peers import joined
if os.environ["RANK"] == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "1":
    time.sleep(3)
with joined(torch.device("cpu")) as peers:
    peers.wait()
"""


@pytest.mark.slow
def test_restarted_processes_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the store is the one of those before, and one of them comes later."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for count in range(2):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(count))
        ended = end(start(2, ["-c", RESTARTED], port=store.port), seconds=30)
        assert [one.code for one in ended] == [0, 0], ended


@pytest.mark.parametrize("waits", [0, 1])
def test_a_process_that_waits_in_the_store_beats(waits: int) -> None:
    """As for what NCCL has the first process write there: the group's connection is locked for so long."""
    ended = together(2, ["-c", WAITING.format(waits=waits)])
    assert [one.code for one in ended] == [0, 0], ended


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_the_one_that_keeps_the_store_is_lost(how: signal.Signals, config: Path, tmp_path: Path) -> None:
    """Whoever asks it for the others' beats gets no answer."""
    first, *others = start(3, train(config, tmp_path / "run", "training.max_steps=100000"))
    wait_for_step(tmp_path / "run", 5)
    first.send_signal(how)
    told = end(others, seconds=60)
    first.kill()
    end([first])
    assert [one.code for one in told] == [7, 7], told
    assert all("rank 0" in one.err for one in told), told


@pytest.mark.slow
def test_torchrun_starts_them_again(config: Path, straight: dict[str, str], tmp_path: Path) -> None:
    """One of two is killed; the same command then goes on."""
    run = tmp_path / "run"
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.2"]
    (launcher,) = start(1, ["-m", *torchrun, *train(config, run)])
    wait_for_step(run, 20)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    workers = [pid for pid in children if b"pytorch_dl" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    (ended,) = end([launcher])
    assert ended.code == 0, ended.err
    assert "resuming at step" in ended.err
    assert outcome(run) == straight
