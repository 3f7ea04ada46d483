"""Records and trackers: what is written, where it is cut, and what happens when a tracker fails."""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.config import Config
from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.training.metrics import METRICS, SAMPLES, TIMING, MetricsLog, Tracker, make_trackers, memory_mb
from pytorch_dl.training.progress import Sample
from pytorch_dl.training.trainer import create_trainer
from pytorch_dl.training.validation import Decoded


class Memory:
    """A tracker that remembers, and fails from the given call on."""

    def __init__(self, *, failing: str | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing = failing

    def log(self, step: int, values: Any) -> None:
        self._note("log", step, dict(values))

    def text(self, step: int, name: str, text: str) -> None:
        self._note("text", step, name, text)

    def close(self) -> None:
        self._note("close")

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] == self.failing:
            raise ConnectionError("no network")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class TestRecord:
    def test_each_record_is_there_at_once_and_exact(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path / "new", [], position=0)
        log.write(3, "train", {"loss": 0.1 + 0.2, "name": "größe"})
        assert (tmp_path / "new" / METRICS).read_text("utf-8") == (
            '{"step": 3, "kind": "train", "loss": 0.30000000000000004, "name": "größe"}\n'
        )
        log.write_timing(3, {"seconds": 1.5})
        assert lines(tmp_path / "new" / TIMING) == [{"step": 3, "seconds": 1.5}]
        assert log.position == (tmp_path / "new" / METRICS).stat().st_size

    def test_samples_lie_in_a_file_of_their_own(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path, [], position=0)
        log.write_samples(3, [{"src": "größe", "reference": "size", "translation": ""}])
        assert (tmp_path / SAMPLES).read_text("utf-8") == (
            '{"step": 3, "samples": [{"src": "größe", "reference": "size", "translation": ""}]}\n'
        )
        assert log.position == 0

    def test_is_cut_back_to_the_checkpoint(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path, [], position=0)
        log.write(1, "train", {"loss": 1.0})
        position = log.position
        log.write(2, "train", {"loss": 2.0})
        log = MetricsLog(tmp_path, [], position=position)
        log.write(2, "train", {"loss": 3.0})
        assert [line["loss"] for line in lines(tmp_path / METRICS)] == [1.0, 3.0]

    def test_is_never_filled_up(self, tmp_path: Path) -> None:
        (tmp_path / METRICS).write_text("{}\n")
        assert MetricsLog(tmp_path, [], position=999).position == 3
        assert (tmp_path / METRICS).read_text() == "{}\n"

    def test_sync_reaches_the_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced = []
        monkeypatch.setattr("os.fsync", lambda d: synced.append(Path(f"/proc/self/fd/{d}").resolve().name))
        MetricsLog(tmp_path, [], position=0).sync()
        assert synced == [tmp_path.name, METRICS]


class TestTrackers:
    def test_numbers_go_to_each(self, tmp_path: Path) -> None:
        trackers = [Memory(), Memory()]
        log = MetricsLog(tmp_path, [*trackers], position=0)
        log.write(1, "validation", {"val_loss": 1, "best": True, "name": "x"})
        log.write_timing(1, {"seconds": 2.5})
        log.text(1, "samples", "text")
        log.close()
        for tracker in trackers:
            assert tracker.calls == [
                ("log", 1, {"validation/val_loss": 1.0, "validation/best": 1.0}),
                ("log", 1, {"system/seconds": 2.5}),
                ("text", 1, "samples", "text"),
                ("close",),
            ]

    @pytest.mark.parametrize("failing", ["log", "text", "close"])
    def test_one_that_fails_is_dropped_with_one_warning(self, failing: str, tmp_path: Path) -> None:
        bad, good = Memory(failing=failing), Memory()
        log = MetricsLog(tmp_path, [bad, good], position=0)
        with pytest.warns(UserWarning, match="Memory failed and is switched off: no network") as caught:
            for step in (1, 2):
                log.write(step, "train", {"loss": 1.0})
                log.text(step, "samples", "text")
            log.close()
        assert len(caught) == 1
        assert len(lines(tmp_path / METRICS)) == 2
        assert len(good.calls) == 5
        assert [call[0] for call in bad.calls].count(failing) == 1

    def test_training_goes_on_without_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trackers: list[Tracker] = [Memory(failing="log")]
        monkeypatch.setattr("pytorch_dl.training.reporter.make_trackers", lambda *args, **options: trackers)
        trainer = tiny_trainer(tmp_path, settings={"max_steps": 4})
        with pytest.warns(UserWarning, match="switched off") as caught:
            trainer.train()
        assert len(caught) == 1
        assert [line["step"] for line in lines(tmp_path / METRICS) if line["kind"] == "train"] == [1, 2, 3, 4]

    def test_none_asked_for(self, tmp_path: Path) -> None:
        assert make_trackers(LoggingConfig(tensorboard=False), tmp_path, first_step=1, settings={}) == []


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class TestTensorBoard:
    def test_shows_every_metric_that_is_promised(self, tmp_path: Path) -> None:
        trainer = tiny_trainer(
            tmp_path,
            settings={"max_steps": 4, "eval_every": 2},
            logging=LoggingConfig(log_every=1),
            decode=lambda model, poll: Decoded({"bleu": 12.5}, [Sample("src", "ref", "out")]),
        )
        trainer.train()
        shown = curves(tmp_path / "tensorboard")
        promised = {
            "training loss": "train/loss",
            "learning rate": "train/learning_rate",
            "gradient norm": "train/grad_norm",
            "throughput": "system/tokens_per_second",
            "memory": "system/peak_rss_mb",
        }
        for name, tag in promised.items():
            assert [step for step, _ in shown[tag]] == [1, 2, 3, 4], name
            assert all(value > 0 for _, value in shown[tag]), name
        for tag in ("validation/val_loss", "validation/val_ppl", "validation/bleu"):
            assert [step for step, _ in shown[tag]] == [2, 4]
        record = {line["step"]: line for line in lines(tmp_path / METRICS) if line["kind"] == "train"}
        assert shown["train/loss"] == [(step, pytest.approx(record[step]["loss"])) for step in (1, 2, 3, 4)]

    def test_after_a_resume_no_step_is_there_twice(self, tmp_path: Path) -> None:
        logging = LoggingConfig(log_every=1)
        first = tiny_trainer(tmp_path, settings={"max_steps": 4, "save_every": 2}, logging=logging)
        step = first.begin_step

        def begin_step(batches: Any, *, total_steps: int) -> Any:
            if first.state.step == 3:
                raise KeyboardInterrupt
            return step(batches, total_steps=total_steps)

        first.begin_step = begin_step  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            first.train()
        again = tiny_trainer(tmp_path, settings={"max_steps": 4}, logging=logging)
        assert again.resume()
        again.train()
        assert [step for step, _ in curves(tmp_path / "tensorboard")["train/loss"]] == [1, 2, 3, 4]


class TestWandB:
    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(
            ImportError, match=r"logging.wandb needs the package wandb: pip install 'pytorch-dl\[wandb\]'"
        ):
            make_trackers(LoggingConfig(tensorboard=False, wandb=True), tmp_path, first_step=1, settings={})

    def test_what_it_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[Any] = []
        run = types.SimpleNamespace(
            log=lambda values, step: told.append((step, values)), summary={}, finish=lambda: told.append("finish")
        )
        fake = types.SimpleNamespace(init=lambda **options: told.append(options) or run)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        config = LoggingConfig(tensorboard=False, wandb=True, wandb_project="p")
        (tracker,) = make_trackers(config, tmp_path, first_step=1, settings={"batch_size": 7})
        tracker.log(3, {"train/loss": 1.5})
        tracker.text(3, "samples", "text")
        tracker.close()
        assert told[0]["project"] == "p"
        assert told[0]["config"] == {"batch_size": 7}
        assert (told[0]["id"], told[0]["resume"]) == ((tmp_path / "wandb_id").read_text(), "allow")
        assert told[1:] == [(3, {"train/loss": 1.5}), "finish"]
        assert run.summary == {"samples": "text"}

    def test_a_resumed_training_goes_on_under_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[Any] = []
        run = types.SimpleNamespace(log=lambda values, step: None, summary={}, finish=lambda: None)
        fake = types.SimpleNamespace(init=lambda **options: told.append(options) or run)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        config = Config().update(
            training={"max_steps": 2, "mixed_precision": False},
            logging={"wandb": True, "tensorboard": False, "log_every": 1},
        )
        for name in ("1", "1", "2", "2"):
            if name == "2":
                shutil.rmtree(tmp_path / name / "checkpoints", ignore_errors=True)  # the second time begins anew there
            trainer = create_trainer(
                model=tiny_model(), train_dataloader=tiny_loader(), config=config, run_dir=tmp_path / name
            )
            trainer.resume()
            trainer.train()
        assert [options["config"] for options in told] == [config.model_dump()] * 4
        first, again, other, anew = (options["id"] for options in told)
        assert first == again
        assert len({first, other, anew}) == 3
        assert {path.name for path in (tmp_path / "2").glob("*.jsonl")} == {
            f"{name}.jsonl" for name in ("metrics", "metrics.1", "timing", "timing.1")
        }

    def test_that_cannot_begin_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def init(**options: Any) -> None:
            raise RuntimeError("api_key not configured")

        monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
        config = LoggingConfig(tensorboard=False, wandb=True)
        with pytest.warns(UserWarning, match="a tracker cannot begin and is left out: api_key not configured"):
            assert make_trackers(config, tmp_path, first_step=1, settings={}) == []


def test_memory() -> None:
    assert 10 < memory_mb()["peak_rss_mb"] < 1e6
    assert ("gpu_memory_mb" in memory_mb()) == torch.cuda.is_available()
