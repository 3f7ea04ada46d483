"""Trackers: what they are told, by whom, and that one that fails or hangs is left behind."""

import json
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import QUIET, silent, tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.config import Config
from pytorch_dl.training import tracking
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.progress import Sample
from pytorch_dl.training.reporter import Reporter
from pytorch_dl.training.tracking import Trackers, Value
from pytorch_dl.training.train_state import TrainState
from pytorch_dl.training.trainer import create_trainer
from pytorch_dl.training.validation import Decoded


class Memory:
    """A tracker that remembers, and fails from the given call on."""

    def __init__(self, *, failing: str | None = None, error: BaseException | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.failing, self.error = failing, error or ConnectionError("no network")

    def begin(self, settings: Mapping[str, Any], *, first_step: int) -> None:
        self._note("begin", dict(settings), first_step)

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        self._note("log", step, dict(values))

    def close(self) -> None:
        self._note("close")

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())
        if call[0] == self.failing:
            raise self.error

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def steps(self, name: str) -> list[int]:
        return [call[1] for call in self.calls if call[0] == "log" and name in call[2]]


class Hanging(Memory):
    """One that waits from the given call on, until the test ends."""

    def __init__(self, *, hanging: str) -> None:
        super().__init__()
        self.hanging, self.released = hanging, threading.Event()

    def _note(self, *call: Any) -> None:
        if call[0] == self.hanging:
            self.released.wait(60)
        super()._note(*call)


def test_each_is_told_all_in_order_from_one_thread_that_is_not_ours() -> None:
    memories = [Memory(), Memory()]
    trackers = Trackers(memories, {"model.d_model": 16}, first_step=3)
    trackers.log(3, {"train/loss": 1.5, "samples": "text"})
    trackers.close()
    for memory in memories:
        assert memory.calls == [
            ("begin", {"model.d_model": 16}, 3),
            ("log", 3, {"train/loss": 1.5, "samples": "text"}),
            ("close",),
        ]
        assert len(memory.threads) == 1 and threading.get_ident() not in memory.threads


def test_pictures_are_drawn_in_the_trackers_thread() -> None:
    memory, drawn_in = Memory(), []

    def draw() -> Image.Image:
        drawn_in.append(threading.get_ident())
        return Image.new("RGB", (2, 3))

    trackers = Trackers([memory], {}, first_step=1)
    trackers.log(1, {"attention/1": draw})
    trackers.close()
    assert set(drawn_in) == memory.threads and len(drawn_in) == 1
    assert memory.calls[1][2]["attention/1"].size == (2, 3)


@pytest.mark.parametrize("failing", ["begin", "log", "close"])
@pytest.mark.parametrize("error", [ConnectionError("no network"), SystemExit("no network")])
def test_one_that_fails_is_dropped_with_one_warning(failing: str, error: BaseException) -> None:
    bad, good = Memory(failing=failing, error=error), Memory()
    with pytest.warns(UserWarning, match="Memory failed and is switched off: .*no network") as caught:
        trackers = Trackers([bad, good], {}, first_step=1)
        for step in range(1, 5):
            trackers.log(step, {"loss": 1.0})
            time.sleep(0.01)  # until it has failed
        trackers.close()
    assert len(caught) == 1
    assert good.names == ["begin", *["log"] * 4, "close"]
    assert bad.names.count(failing) == 1 and bad.names[-1] == failing


@pytest.mark.parametrize("hanging", ["begin", "log", "close"])
def test_one_that_hangs_is_waited_for_at_the_end_only(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 0.1)
    bad, good = Hanging(hanging=hanging), Memory()
    trackers = Trackers([bad, good], {}, first_step=1)
    started = time.monotonic()
    for step in range(1, 500):
        trackers.log(step, {"loss": 1.0})
    assert time.monotonic() - started < 5
    with pytest.warns(UserWarning, match="Hanging failed and is switched off: it has not answered for 0.1 seconds"):
        trackers.close()
    assert good.steps("loss") == list(range(1, 500))
    bad.released.set()


def test_one_that_hangs_for_too_long_is_not_told_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "CALLS_WAITING", 10)
    bad = Hanging(hanging="log")
    trackers = Trackers([bad], {}, first_step=1)
    with pytest.warns(UserWarning, match="it has not answered the last 10 calls") as caught:
        for step in range(1, 20):
            trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert len(caught) == 1
    bad.released.set()


class TestGoingBack:
    """As after a loss that leaps."""

    def test_it_is_begun_again_in_its_thread_and_not_waited_for(self) -> None:
        memory, slow = Memory(), Hanging(hanging="close")
        reporter = Reporter(None, QUIET, silent(), settings={"model": {"d_model": 16}}, trackers=[memory, slow])
        started = time.monotonic()
        with reporter.open(TrainState(step=4)):
            reporter.go_back(TrainState(step=2))
            assert time.monotonic() - started < tracking.CLOSING_SECONDS / 2
            slow.released.set()
        assert memory.calls == [
            ("begin", {"model.d_model": 16}, 5),
            ("close",),
            ("begin", {"model.d_model": 16}, 3),
            ("close",),
        ]
        assert len(memory.threads) == 1
        assert slow.names == ["begin", "close", "begin", "close"] and len(slow.threads) == 1

    @pytest.mark.parametrize("failing", ["begin", "log", "close"])
    def test_one_that_has_failed_is_left_alone(self, failing: str) -> None:
        memory = Memory(failing=failing)
        with pytest.warns(UserWarning, match="Memory failed and is switched off: no network") as caught:
            trackers = Trackers([memory], {}, first_step=1)
            for step in (1, 2):
                trackers.log(step, {"loss": 1.0})
                trackers.go_back(first_step=step)
                time.sleep(0.01)  # until it has failed
            trackers.close()
        assert len(caught) == 1
        assert memory.names.count(failing) == 1 and memory.names[-1] == failing


class TestInATraining:
    def test_ones_own_are_told_what_the_record_says(self, tmp_path: Path) -> None:
        memory = Memory()
        settings = {"max_steps": 4, "eval_every": 2}
        decode = Decoded({"bleu": 12.5}, [Sample("src", "ref", "out", lambda: Image.new("RGB", (2, 2)))])
        tiny_trainer(tmp_path, settings=settings, decode=lambda *_: decode, trackers=[memory]).train()
        record = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
        told = {(step, name): value for kind, step, *rest in memory.calls[1:-1] for name, value in rest[0].items()}
        numbers = {
            (line["step"], f"{line['kind']}/{name}"): value
            for line in record
            for name, value in line.items()
            if name not in ("step", "kind")
        }
        assert numbers.items() <= told.items() and len(numbers) > 30
        assert memory.steps("system/tokens_per_second") == [1, 2, 3, 4]
        assert memory.steps("samples") == memory.steps("attention/1") == [2, 4]
        assert told[2, "samples"] == "src  \nref  \nout"
        assert memory.calls[0][1]["training.max_steps"] == 4 and memory.calls[0][2] == 1
        assert memory.names[-1] == "close"

    def test_they_are_given_with_a_configuration(self) -> None:
        memory = Memory()
        config = Config().update(training={"max_steps": 2, "mixed_precision": False}, logging={"log_every": 1})
        model, loader = tiny_model(), tiny_loader()
        create_trainer(model=model, train_dataloader=loader, config=config, run_dir=None, trackers=[memory]).train()
        assert memory.steps("train/loss") == [1, 2]
        assert memory.calls[0][1]["model.d_model"] == 512

    def test_one_is_begun_again_where_training_goes_on(self, tmp_path: Path) -> None:
        memory = Memory()
        tiny_trainer(tmp_path, settings={"max_steps": 2}, trackers=[memory]).train()
        again = tiny_trainer(tmp_path, settings={"max_steps": 4}, trackers=[memory])
        assert again.resume()
        again.train()
        assert [call[2] for call in memory.calls if call[0] == "begin"] == [1, 3]
        assert memory.steps("train/loss") == [1, 2, 3, 4]

    def test_only_the_first_process_has_them(self) -> None:
        given = [tiny_trainer(trackers=[Memory()], peers=Peers(rank)).reporter.trackers for rank in (0, 1)]
        assert [len(trackers) for trackers in given] == [1, 0]

    @pytest.mark.parametrize("bad", [Memory(failing="begin"), Memory(failing="log"), Hanging(hanging="log")])
    def test_training_is_the_same_with_one_that_is_none(
        self, bad: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracking, "CLOSING_SECONDS", 0.1)
        tiny_trainer(tmp_path / "without", settings={"max_steps": 4}, logging=QUIET).train()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tiny_trainer(tmp_path / "with", settings={"max_steps": 4}, logging=QUIET, trackers=[bad]).train()
        told = [str(one.message).partition(":")[0] for one in caught]
        assert told == [f"{type(bad).__name__} failed and is switched off"]
        assert (tmp_path / "with" / METRICS).read_bytes() == (tmp_path / "without" / METRICS).read_bytes()
