"""What an estimate counts is what a training then does; what it measures is there; and it leaves nothing behind."""

import json
import tempfile
from pathlib import Path

import pytest
from tiny import tiny_model
from tiny_runs import TINY, call, records, write_tsv

from pytorch_dl.config import Config, load_config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.estimation import estimate as estimation
from pytorch_dl.estimation import measuring, text
from pytorch_dl.estimation.estimate import estimated, validation_count
from pytorch_dl.estimation.measuring import Clock, Measured
from pytorch_dl.estimation.model_figures import activation_bytes, parameters_by_part
from pytorch_dl.estimation.table import lines_of, scaled
from pytorch_dl.estimation.text import EveryNth, prepared, step_positions
from pytorch_dl.training.accumulation import groups
from pytorch_dl.training.signals import StopNow
from pytorch_dl.training.step_memory import Memory
from pytorch_dl.training.train_state import TrainState

QUICKLY = ["training.max_steps=12", "training.eval_every=5", "training.eval_decode=6"]
LAYOUTS = {
    "packed": [],
    "bucketed": ["data.layout=padded", "data.max_tokens_per_batch=200"],
    "random": ["data.use_dynamic_batching=false", "training.batch_size=7"],
}


JSON = {
    "device": str,
    "precision": str,
    "compiled": bool,
    "parameters": {"total": int, "parts": dict},
    "flops": dict.fromkeys(("forward_per_token", "backward_per_token", "training"), float),
    "text": {
        **dict.fromkeys(("one_of", "pairs", "left_out", "src_tokens", "tgt_tokens", "steps_per_epoch"), int),
        **{"layout": str, "efficiency": float, "epochs": float, "steps": int, "tokens": int},
    },
    "memory": dict.fromkeys(
        ("weights", "gradients", "optimizer", "average", "activations", "peak", "process_peak"), int
    ),
    "times": {
        **dict.fromkeys(("preparation", "start", "step", "tokens_per_second", "steps", "validation"), float),
        **{"timed_steps": int, "validations": int, "training": float, "total": float, "last_step": int},
    },
    "by_formula": type(None),
}


def quiet(line: str) -> None:
    pass


def config_file(folder: Path, *settings: str, pairs: int = 60) -> Path:
    path = folder / "config.yaml"
    config = with_overrides(Config(), [*TINY, *settings])
    config.data.train_data_path, config.data.val_split = str(write_tsv(folder / "text.tsv", pairs)), 12
    path.write_text(json.dumps(config.model_dump()))
    return path


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is temporary."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


class TestCounted:
    @pytest.mark.parametrize("size", [1, 3])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_text_figures_are_those_of_a_training(self, layout, size, tmp_path, capsys):
        settings = [*LAYOUTS[layout], f"training.gradient_accumulation_steps={size}", "training.num_epochs=2"]
        path = config_file(tmp_path, *settings)
        config = load_config(path)
        config.training.max_steps = None
        path.write_text(json.dumps(config.model_dump()))
        figures = estimated(config, seconds=1, run=False, say=quiet).text
        assert call(capsys, "train", path, "--out", tmp_path / "run").code == 0
        first = next(record for record in records(tmp_path / "run") if record["kind"] == "epoch")
        assert figures.layout == layout and figures.one_of == 1
        assert (figures.steps_per_epoch, figures.efficiency) == (first["steps"], pytest.approx(first["efficiency"]))
        lines = [record for record in records(tmp_path / "run") if record["kind"] == "train"]
        assert figures.tgt_tokens == sum(line["tgt_tokens"] for line in lines if line["step"] <= first["step"])
        assert figures.epochs == 2 and figures.steps == 2 * figures.steps_per_epoch
        assert figures.tokens == 2 * figures.epoch_tokens
        assert figures.pairs == 48 and figures.left_out == 0

    def test_steps_that_are_given_make_parts_of_epochs(self, tmp_path):
        config = load_config(config_file(tmp_path, "data.max_length=9"))
        figures = estimated(config, seconds=1, run=False, say=quiet).text
        assert figures.steps == 20
        assert figures.epochs == pytest.approx(20 / figures.steps_per_epoch)
        assert figures.tokens == pytest.approx(figures.epochs * figures.epoch_tokens, abs=1)

    @pytest.mark.parametrize("size", [1, 2])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_positions_are_those_of_the_batches(self, layout, size, tmp_path):
        config = load_config(config_file(tmp_path, *LAYOUTS[layout]))
        loader = prepared(config, tmp_path, quiet).loader
        state, found, expected = TrainState(), step_positions(loader, size=size), []
        steps = groups(loader, state, size=size, model=tiny_model())
        while state.epoch < 2:
            group = next(steps)
            expected.append(sum(batch.num_positions for batch in group.batches.values()))
            state.epoch += group.ends_epoch
        assert [next(found) for _ in expected] == expected

    def test_a_long_text_is_counted_by_a_sample(self, tmp_path, monkeypatch):
        config = load_config(config_file(tmp_path, "data.max_tokens_per_batch=60", pairs=200))
        whole = estimated(config, seconds=1, run=False, say=quiet).text
        monkeypatch.setattr(text, "MOST_PAIRS", 50)
        said: list[str] = []
        part = estimated(config, seconds=1, run=False, say=said.append).text
        assert part.one_of == 4 and "the text is long: its figures are from one pair of 4" in said
        assert part.pairs == whole.pairs == 188
        assert part.src_tokens == pytest.approx(whole.src_tokens, rel=0.05)
        assert part.steps_per_epoch == pytest.approx(whole.steps_per_epoch, rel=0.25)
        config.data.cache_dir = str(tmp_path / "cache")
        assert estimated(config, seconds=1, run=False, say=quiet).text == whole

    def test_every_nth_is_another_text(self, tmp_path):
        config = load_config(config_file(tmp_path))
        (stream,) = text.texts_of(config.data, seed=1).train
        third = EveryNth(stream, 3)
        assert list(third) == list(stream)[::3]
        assert len({stream.fingerprint(), third.fingerprint(), EveryNth(stream, 2).fingerprint()}) == 3
        assert (third.name, third.weight, third.dropped) == (stream.name, stream.weight, 0)

    @pytest.mark.parametrize("tied", ["all", "decoder", "none"])
    @pytest.mark.parametrize("changes", [{}, {"bias": True, "norm_type": "layernorm", "positions": "learned"}])
    def test_parameters_by_part_are_all_of_them(self, tied, changes):
        model = tiny_model(tie_embeddings=tied, **changes)
        parts = parameters_by_part(model, tied=tied)
        assert sum(parts.values()) == model.num_parameters()
        assert not [name for name in parts if "other" in name]
        embeddings = [name for name in parts if "embedding" in name or name == "output"]
        assert len(embeddings) == {"all": 1, "decoder": 2, "none": 3}[tied]
        attention = sum(p.numel() for p in model.decoder_layers[0].cross_attention.parameters())
        assert parts["decoder cross-attention"] == attention

    def test_validations_are_counted_as_they_come(self, tmp_path, capsys):
        path = config_file(tmp_path, "training.max_steps=13", "training.eval_every=5", "training.average_checkpoints=2")
        config = load_config(path)
        figures = estimated(config, seconds=1, run=False, say=quiet).text
        assert call(capsys, "train", path, "--out", tmp_path / "run").code == 0
        found = sum(record["kind"] == "validation" for record in records(tmp_path / "run"))
        assert validation_count(config, figures) == found + 1 == 4  # the average's is not written down


class TestMeasured:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_all_is_told_and_nothing_is_left(self, layout, tmp_path, capsys, own_temporary):
        path = config_file(tmp_path, *QUICKLY, *LAYOUTS[layout], "training.ema_decay=0.9")
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        result = call(capsys, "estimate", path, "--json", "--seconds", "0.1")
        assert result.code == 0, result.err
        found = json.loads(result.out)
        assert found["by_formula"] is None and found["compiled"] is False and found["device"] in ("cpu", "cuda")
        times, memory = found["times"], found["memory"]
        assert times["validations"] == 3 and times["last_step"] == 12
        assert times["steps"] == pytest.approx(12 * times["step"])
        assert times["training"] == pytest.approx(times["steps"] + 3 * times["validation"])
        assert times["total"] == pytest.approx(times["preparation"] + times["start"] + times["training"])
        assert times["validation"] > 0 and times["tokens_per_second"] > 0 and times["timed_steps"] > 0
        weights = 4 * found["parameters"]["total"]
        assert memory["weights"] == memory["gradients"] == memory["average"] == weights
        assert 2 * weights <= memory["optimizer"] < 2.1 * weights
        kept = memory["weights"] + memory["optimizer"] + memory["average"]
        assert kept + memory["gradients"] <= memory["peak"] <= kept + memory["gradients"] + memory["activations"]
        assert memory["process_peak"] > memory["peak"]
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
        assert not list(own_temporary.iterdir())

    def test_the_json_has_each_figure(self, tmp_path, capsys):
        path = config_file(tmp_path, *QUICKLY)
        found = json.loads(call(capsys, "estimate", path, "--json", "--seconds", "0.1").out)
        kinds = {
            name: {key: type(each) for key, each in value.items()} if isinstance(value, dict) else type(value)
            for name, value in found.items()
        }
        assert kinds == JSON
        forward, backward = (found["flops"][f"{way}_per_token"] for way in ("forward", "backward"))
        assert backward == 2 * forward
        assert found["flops"]["training"] == pytest.approx((forward + backward) * found["text"]["tokens"])

    def test_nothing_goes_to_the_log_folder(self, tmp_path):
        logs = tmp_path / "logs"
        config = load_config(config_file(tmp_path, *QUICKLY, f"logging.log_dir={logs}", "logging.tensorboard=true"))
        assert estimated(config, seconds=0.1, run=True, say=quiet).times
        assert not logs.exists()

    def test_the_cache_is_filled_where_one_is_named(self, tmp_path, capsys):
        cache = tmp_path / "cache"
        path = config_file(tmp_path, *QUICKLY, f"data.cache_dir={cache}")
        assert call(capsys, "estimate", path, "--no-run").code == 0
        stores = sorted(store.name for store in cache.iterdir())
        assert stores
        assert call(capsys, "train", path, "--out", tmp_path / "run").code == 0
        assert sorted(store.name for store in cache.iterdir()) == stores

    def test_a_table_for_people(self, tmp_path, capsys):
        path = config_file(tmp_path, *QUICKLY)
        result = call(capsys, "estimate", "--config", path, "--seconds", "0.1")
        assert result.code == 0, result.err
        for word in ("parameters", "FLOPs", "memory, measured", "tokens a second", "a validation", "training"):
            assert word in result.out
        figures = [line for line in result.out.splitlines() if line.startswith("  ")]
        widths = {len(line[: line.index(words[0]) + len(words[0])]) for line in figures if (words := _figure(line))}
        assert len(widths) == 1  # the figures end in one column

    def test_without_a_run_there_are_formulas(self, tmp_path, capsys):
        path = config_file(tmp_path, *QUICKLY)
        result = call(capsys, "estimate", path, "--no-run")
        assert result.code == 0
        assert "nothing was run (--no-run): figures by formula only" in result.out
        assert "not measured" in result.out and "tokens a second" not in result.out
        found = json.loads(call(capsys, "estimate", path, "--no-run", "--json").out)
        assert found["times"] is None and found["compiled"] is None and found["by_formula"] == "--no-run"
        assert found["memory"]["process_peak"] is None and found["memory"]["peak"] > 0

    def test_a_model_that_does_not_fit_is_not_tried(self, tmp_path, monkeypatch):
        config = load_config(config_file(tmp_path, *QUICKLY))
        meminfo = tmp_path / "meminfo"
        meminfo.write_text("MemTotal:  8 kB\nMemAvailable:  7 kB\n")
        monkeypatch.setattr(estimation, "MEMINFO", meminfo)
        found = estimated(config, seconds=1, run=True, say=quiet)
        assert found.times is None and "0.0 GB of memory are free" in str(found.by_formula)

    def test_memory_that_lacks_leaves_the_formulas(self, tmp_path, monkeypatch):
        def lacking(*_: object, **__: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        config = load_config(config_file(tmp_path, *QUICKLY))
        monkeypatch.setattr(estimation, "measured", lacking)
        found = estimated(config, seconds=1, run=True, say=quiet)
        assert found.times is None and "can't allocate memory" in str(found.by_formula)
        monkeypatch.setattr(estimation, "measured", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            estimated(config, seconds=1, run=True, say=quiet)

    def test_a_time_limit_shortens_the_training(self, tmp_path):
        config = load_config(config_file(tmp_path, "training.max_steps=1m", "training.time_limit=60s"))
        found = estimated(config, seconds=0.1, run=True, say=quiet)
        assert found.times
        assert found.times.training == 60 < found.times.steps
        assert 0 < found.times.last_step < 1_000_000
        assert f"the time limit ends it at step {found.times.last_step:,}" in "\n".join(lines_of(found))

    @pytest.mark.parametrize(("limit", "last"), [(90, 60), (120, 80), (160, 100)])  # shorter than the steps, all, none
    def test_a_time_limit_is_told_where_it_ends_a_training(self, limit, last, tmp_path, monkeypatch):
        memory = Memory(1, 1, 2, 0, 1, 5)
        seen = Measured("cpu", "fp32", False, 0.0, 5, 1.0, 9.0, 2.0, 3.0, memory)  # a step 1 s, a validation 5 s
        monkeypatch.setattr(estimation, "measured", lambda *_, **__: seen)
        settings = ["training.max_steps=100", "training.eval_every=10", f"training.time_limit={limit}s"]
        found = estimated(load_config(config_file(tmp_path, *settings)), seconds=1, run=True, say=quiet)
        assert found.times
        assert (found.times.steps, found.times.training) == (100.0, min(limit, 150))
        assert found.times.last_step == last
        (line,) = (line for line in lines_of(found) if line.startswith("  training "))
        told = f"the time limit ends it at step {last}" if last < 100 else "without writing checkpoints"
        assert line.endswith(told)

    def test_activations_by_formula_are_about_what_is_measured(self, tmp_path):
        settings = ["model.d_model=64", "data.max_tokens_per_batch=1000", "model.dropout=0", "data.vocab_size=300"]
        found = estimated(load_config(config_file(tmp_path, *QUICKLY, *settings)), seconds=0.1, run=True, say=quiet)
        formula = estimated(load_config(tmp_path / "config.yaml"), seconds=0.1, run=False, say=quiet)
        assert 0.5 < formula.memory.activations / found.memory.activations < 2
        assert formula.memory.weights == found.memory.weights
        assert formula.memory.optimizer == pytest.approx(found.memory.optimizer, rel=0.01)

    def test_checkpointing_needs_less_by_formula(self):
        whole, lean = (tiny_model(num_encoder_layers=4, use_checkpointing=on) for on in (False, True))
        sizes = [activation_bytes(model, (2, 20, 20), number_bytes=4) for model in (whole, lean)]
        assert sizes[1] < 0.6 * sizes[0]


class TestClock:
    @pytest.fixture
    def now(self, monkeypatch) -> list[float]:
        """The time, to be moved on."""
        clock = [1.0]
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock[0])
        return clock

    def test_times_what_comes_after_the_warm_up(self, now):
        clock = Clock(warmup=1, seconds=100.0)
        for taken in (5.0, 1.0, 3.0):
            with clock(1):
                now[0] += taken
        assert clock.timed == (1, 4.0) and clock.first_start == 1.0

    def test_long_steps_have_a_short_warm_up(self, now):
        clock = Clock(warmup=10, seconds=8.0)
        for _ in range(3):
            with clock(1):
                now[0] += 5.0
        assert clock.timed == (1, 10.0)
        with pytest.raises(StopNow), clock(4):
            pass

    def test_ends_a_training_after_its_seconds(self):
        clock = Clock(warmup=1, seconds=0.0)
        for step in range(3):
            with clock(step):
                pass
        with pytest.raises(StopNow), clock(3):
            pass
        assert clock.has_enough

    def test_of_a_single_step_all_is_timed(self):
        clock = Clock(warmup=3, seconds=1.0)
        with clock(1):
            pass
        first, seconds = clock.timed
        assert first == 0 and seconds >= 0


class TestRefused:
    def test_two_files(self, tmp_path, capsys):
        path = config_file(tmp_path)
        result = call(capsys, "estimate", path, "--config", path)
        assert result.code == 2 and "exclude each other" in result.error_lines[0]

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["--preset", "nano"], 2, "there is no training text"),
            (["--preset", "nano", "--src", "nowhere.tsv"], 3, "nowhere.tsv"),
            (["nowhere.yaml"], 2, "nowhere.yaml"),
            (["--preset", "giant"], 2, "unknown template 'giant'"),
            (["model.d_modle=3"], 2, "d_model"),
            (["--seconds", "0"], 2, ""),
        ],
    )
    def test_what_makes_no_sense(self, words, code, said, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = call(capsys, "estimate", *words)
        assert result.code == code
        assert said in result.err and not result.out


def test_numbers_are_scaled():
    assert [scaled(number) for number in (12.0, 1234.0, 5e6, 2.5e15)] == ["12", "1.234 k", "5 M", "2.5 P"]


def _figure(line: str) -> list[str]:
    """The figure of a line: what stands two spaces or more behind its name."""
    _, _, rest = line.strip().partition("  ")
    return [rest.strip().partition("  ")[0]] if rest.strip() and any(c.isdigit() for c in rest) else []
