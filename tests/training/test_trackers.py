"""TensorBoard and Weights & Biases, read back by their own readers; one of the documentation."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.config import Config
from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.errors import ConfigError
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.progress import Sample
from pytorch_dl.training.trackers import make_trackers
from pytorch_dl.training.tracking import Tracker, Trackers
from pytorch_dl.training.trainer import create_trainer
from pytorch_dl.training.validation import Decoded

ROOT = Path(__file__).resolve().parents[2]
EACH_STEP = LoggingConfig(log_every=1)
SAMPLES = "samples/text_summary"


def test_none_asked_for(tmp_path: Path) -> None:
    assert make_trackers(LoggingConfig(tensorboard=False), tmp_path) == []


def picture() -> Image.Image:
    return Image.new("RGB", (3, 2), (255, 128, 0))


def decoded(*_: object) -> Decoded:
    return Decoded({"bleu": 12.5}, [Sample("größe", "ref", "out", picture)])


def shown(folder: Path) -> Any:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    return events


def shown_by_the_server(folder: Path) -> Any:
    """The same by the reader of the web page; the other one does not hide texts that are out of date."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = shown(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def stopped_at(step: int, folder: Path, **settings: Any) -> None:
    """Train in `folder`, and be interrupted when a step is to begin."""
    trainer = tiny_trainer(folder, settings=settings, logging=EACH_STEP, decode=decoded)
    begin_step = trainer.begin_step

    def begin(batches: Any, *, total_steps: int) -> Any:
        if trainer.state.step == step:
            raise KeyboardInterrupt
        return begin_step(batches, total_steps=total_steps)

    trainer.begin_step = begin  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


class TestTensorBoard:
    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        assert make_trackers(LoggingConfig(tensorboard=False), tmp_path) == []
        with pytest.raises(ConfigError, match=r"Fix: pip install tensorboard, or set logging\.tensorboard to false\.$"):
            make_trackers(LoggingConfig(), tmp_path)

    def test_shows_every_metric_that_is_promised(self, tmp_path: Path) -> None:
        settings = {"max_steps": 4, "eval_every": 2}
        tiny_trainer(tmp_path, settings=settings, logging=EACH_STEP, decode=decoded).train()
        found = curves(tmp_path / "tensorboard")
        promised = {
            "training loss": "train/loss",
            "learning rate": "train/learning_rate",
            "gradient norm": "train/grad_norm",
            "throughput": "system/tokens_per_second",
            "memory": "system/peak_rss_mb",
        }
        for name, tag in promised.items():
            assert [step for step, _ in found[tag]] == [1, 2, 3, 4], name
            assert all(value > 0 for _, value in found[tag]), name
        for tag in ("validation/val_loss", "validation/val_ppl", "validation/bleu"):
            assert [step for step, _ in found[tag]] == [2, 4]
        record = [json.loads(line) for line in (tmp_path / METRICS).read_text("utf-8").splitlines()]
        losses = {line["step"]: line["loss"] for line in record if line["kind"] == "train"}
        assert found["train/loss"] == [(step, pytest.approx(losses[step])) for step in (1, 2, 3, 4)]

    def test_shows_texts_and_pictures(self, tmp_path: Path) -> None:
        settings = {"max_steps": 4, "eval_every": 2}
        tiny_trainer(tmp_path, settings=settings, logging=EACH_STEP, decode=decoded).train()
        events = shown(tmp_path / "tensorboard")
        assert "samples/text_summary" in events.PluginTagToContent("text")
        texts = [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(SAMPLES)]
        assert texts == [(2, "größe  \nref  \nout"), (4, "größe  \nref  \nout")]
        images = events.Images("attention/1")
        assert [(image.step, image.width, image.height) for image in images] == [(2, 3, 2), (4, 3, 2)]
        assert decode_png(images[0].encoded_image_string).getpixel((1, 1)) == (255, 128, 0)

    def test_shows_the_settings(self, tmp_path: Path) -> None:
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        config = Config().update(
            model={"d_model": 48, "n_kv_heads": None}, training={"max_steps": 2, "mixed_precision": False}
        )
        config.data.train_data_path = "größe.tsv"
        trainer = create_trainer(model=tiny_model(), train_dataloader=tiny_loader(), config=config, run_dir=tmp_path)
        trainer.train()
        content = shown(tmp_path / "tensorboard").PluginTagToContent("hparams")["_hparams_/session_start_info"]
        found = HParamsPluginData.FromString(content).session_start_info.hparams
        assert found["model.d_model"].number_value == 48
        assert found["training.mixed_precision"].bool_value is False
        assert found["data.train_data_path"].string_value == "größe.tsv"
        assert found["model.n_kv_heads"].string_value == "null"
        assert len(found) == sum(len(section) for section in config.model_dump().values())

    def test_after_a_resume_no_step_is_there_twice(self, tmp_path: Path) -> None:
        stopped_at(3, tmp_path, max_steps=6, eval_every=3, save_every=2)
        assert [step for step, _ in curves(tmp_path / "tensorboard")["train/loss"]] == [1, 2, 3]
        again = tiny_trainer(tmp_path, settings={"max_steps": 6, "eval_every": 3}, logging=EACH_STEP, decode=decoded)
        assert again.resume()
        again.train()
        events = shown(tmp_path / "tensorboard")
        assert len(list((tmp_path / "tensorboard").iterdir())) == 2
        assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
        assert [event.step for event in events.Scalars("validation/val_loss")] == [3, 6]
        assert [event.step for event in events.Tensors(SAMPLES)] == [3, 6]
        assert [event.step for event in events.Images("attention/1")] == [3, 6]

    def test_what_a_resume_goes_back_behind_is_hidden(self, tmp_path: Path) -> None:
        for first, last in ((1, 9), (4, 7)):
            (tracker,) = make_trackers(EACH_STEP, tmp_path)
            tracker.begin({"model.d_model": 16}, first_step=first)
            for step in range(first, last):
                tracker.log(step, {"loss": float(first), "samples": f"{first}", "attention/1": picture()})
            tracker.close()
        events = shown(tmp_path / "tensorboard")
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [
            *((step, 1.0) for step in (1, 2, 3)),
            *((step, 4.0) for step in (4, 5, 6)),
        ]
        texts = shown_by_the_server(tmp_path / "tensorboard").Tensors(SAMPLES)
        assert [event.tensor_proto.string_val[0] for event in texts] == [b"1"] * 3 + [b"4"] * 3
        assert [event.step for event in events.Images("attention/1")] == [1, 2, 3, 4, 5, 6]
        assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def decode_png(png: bytes) -> Image.Image:
    from io import BytesIO

    return Image.open(BytesIO(png)).convert("RGB")


def installed(monkeypatch: pytest.MonkeyPatch, **names: Any) -> None:
    """Weights & Biases with these names alone."""
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(__spec__="found", **names))


class TestWandB:
    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        line = "logging.wandb needs the package wandb. Fix: pip install 'pytorch-dl[wandb]'."
        with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
            make_trackers(LoggingConfig(tensorboard=False, wandb=True), tmp_path)

    def test_what_it_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[Any] = []
        run = types.SimpleNamespace(
            log=lambda values, step: told.append((step, values)), finish=lambda: told.append("finish")
        )
        begin = lambda **options: told.append(options) or run  # noqa: E731
        installed(monkeypatch, init=begin, Image=lambda image: f"{image.size}")
        (tracker,) = make_trackers(LoggingConfig(tensorboard=False, wandb=True, wandb_project="p"), tmp_path)
        assert told == []
        tracker.begin({"model.d_model": 7}, first_step=1)
        tracker.log(3, {"train/loss": 1.5, "samples": "text", "attention/1": picture()})
        tracker.close()
        assert told[0]["project"] == "p"
        assert told[0]["config"] == {"model.d_model": 7}
        assert (told[0]["id"], told[0]["resume"]) == ((tmp_path / "wandb_id").read_text(), "allow")
        assert told[1:] == [(3, {"train/loss": 1.5, "samples": "text", "attention/1": "(3, 2)"}), "finish"]

    def test_a_resumed_training_goes_on_under_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[Any] = []
        run = types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)
        installed(monkeypatch, init=lambda **options: told.append(options) or run)
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
        assert [options["config"]["model.d_model"] for options in told] == [512] * 4
        first, again, other, anew = (options["id"] for options in told)
        assert first == again
        assert len({first, other, anew}) == 3
        assert {path.name for path in (tmp_path / "2").glob("*.jsonl")} == {
            f"{name}.jsonl" for name in ("metrics", "metrics.1", "timing", "timing.1")
        }

    def test_that_cannot_begin_is_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def init(**options: Any) -> None:
            raise RuntimeError("api_key not configured")

        installed(monkeypatch, init=init)
        trackers = Trackers(make_trackers(LoggingConfig(tensorboard=False, wandb=True), tmp_path), {}, first_step=1)
        with pytest.warns(UserWarning, match="WandB failed and is switched off: api_key not configured"):
            trackers.close()

    @pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed: pip install 'pytorch-dl[wandb]'")
    def test_what_it_writes_offline_is_what_it_was_told(self, tmp_path: Path) -> None:
        """Twice, the second time resumed; in a process of its own, as wandb leaves services behind."""
        places = os.pathsep.join([str(ROOT / "tests"), *sys.path])
        environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": places}
        done = subprocess.run(
            [sys.executable, ROOT / "tests" / "wandb_offline.py", tmp_path],
            env={**environment, "HOME": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "switched off" not in done.stderr
        first, second = json.loads(done.stdout)
        assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text()
        assert first["config"]["training.max_steps"] == 4
        assert sorted(first["curves"]["train/loss"]) == ["1", "2", "3"]
        assert sorted(second["curves"]["train/loss"]) == ["3", "4"]
        record = [json.loads(line) for line in (tmp_path / METRICS).read_text("utf-8").splitlines()]
        losses = {str(line["step"]): line["loss"] for line in record if line["kind"] == "train"}
        assert {**first["curves"]["train/loss"], **second["curves"]["train/loss"]} == losses
        assert first["curves"]["samples"] == {"2": "größe  \nref  \nout"}
        assert first["curves"]["attention/1"]["2"]["_type"] == "image-file"
        assert {run["exit_code"] for run in (first, second)} == {0}


def test_the_tracker_of_the_documentation_is_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it tells MLflow the settings and each number."""
    before, _, rest = (ROOT / "docs/api.md").read_text("utf-8").partition("import mlflow\n")
    text = "import mlflow\n" + rest.partition("```")[0]
    assert before.rstrip().endswith("```python")
    told: list[Any] = []
    fake = types.SimpleNamespace(
        **{
            name: lambda *given, name=name, **options: told.append((name, *given, options))
            for name in ("start_run", "log_params", "log_metrics", "end_run")
        }
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    names: dict[str, Any] = {}
    exec(compile(text, "api.md", "exec"), names)
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    tracker: Tracker = names["MLflow"]()
    trainer = tiny_trainer(settings={"max_steps": 2, "eval_every": 2}, decode=decoded, trackers=[tracker])
    trainer.train()
    assert [call[0] for call in told][:2] == ["start_run", "log_params"] and told[-1][0] == "end_run"
    assert told[1][1]["training.max_steps"] == 2
    metrics = {(name, call[2]["step"]) for call in told if call[0] == "log_metrics" for name in call[1]}
    assert {("train/loss", 1), ("train/loss", 2), ("validation/val_loss", 2)} <= metrics
    assert not any(name.startswith("samples") for name, _ in metrics)
