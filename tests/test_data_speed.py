"""The measurement of data at the smallest sizes: shares follow from their figures, both sides prepare the same ids."""

import json
import random
import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmark import data_speed
from benchmark.contenders.hf_datasets import prepare_with_datasets
from benchmark.measuring.preparing import write_repeated
from pytorch_dl.config import Config
from pytorch_dl.config.load import with_values
from pytorch_dl.dataset.efficient_dataloader import DataModule

PAIRS = 60
SETTINGS = [
    *("model.d_model=16", "model.n_heads=2", "model.num_encoder_layers=1", "model.num_decoder_layers=1"),
    *("model.max_seq_len=64", "data.max_length=64", "data.tokenizer_name=char", "data.vocab_size=300"),
    *("data.max_tokens_per_batch=128", "training.mixed_precision=false", "system.num_threads=1"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(1)
    for suffix in ("en", "de"):
        lines = ["".join(draw.choices("abcdefg ", k=draw.randint(2, 40))) + "." for _ in range(PAIRS)]
        (folder / f"train.{suffix}").write_text("\n".join(lines) + "\n")
    return folder


def measured(text: Path, out: Path, *more: str) -> dict:
    words = f"--data {text} --out {out} --no-compile --steps 3 --repeats 2 --pairs 150 --preset nano".split()
    assert data_speed.main([*words, *more, *SETTINGS]) == 0
    return json.loads((out / "data_speed.json").read_bytes())


def test_the_shares_follow_from_the_seconds(text, tmp_path, capsys):
    pytest.importorskip("datasets")
    results = measured(text, tmp_path, "--preset", "tiny", "--longest-step", "1e9")
    printed = capsys.readouterr().out.splitlines()
    assert [row["preset"] for row in results["presets"]] == ["nano", "tiny"]
    assert {"date", "commit", "cpu"} <= results["machine"].keys() and str(text) not in json.dumps(results)
    for row, line in zip(results["presets"], printed[1:], strict=False):
        assert row["step_s"] == statistics.median(row["steps_s"]) > 0 and row["workers"] == 1
        assert len(row["steps_s"]) == len(row["waited_while_training_s"]) == 3
        waited = statistics.median(row["waited_while_training_s"])
        assert row["while_training_percent"] == pytest.approx(100 * waited / row["step_s"])
        for state in (row["cold"], row["warm"]):
            assert min(state.values()) > 0 and state["batches"] > 10  # 60 pairs of 20 tokens, 128 a batch
            seconds = state["wait_s"] + state["plan_s"] / state["batches"]
            assert state["share_percent"] == pytest.approx(100 * seconds / row["step_s"])
            assert state["first_plan_s"] < state["first_batch_s"]
            assert f"{state['share_percent']:.3f}" in line
    shares = [row["while_training_percent"] for row in results["presets"]]
    assert printed[3].endswith("met" if max(shares) < results["goal_percent"] == 1 else "missed")
    speeds = results["preparation"]
    assert (speeds["pairs"], speeds["distinct_pairs"]) == (150, PAIRS)
    assert all(len(found) == 2 and min(found) > 0 for found in speeds["pairs_per_s"].values())
    assert speeds["median"] == {side: statistics.median(found) for side, found in speeds["pairs_per_s"].items()}
    assert speeds["ratio"] == pytest.approx(speeds["median"]["ours"] / speeds["median"]["datasets"])


def test_what_would_take_too_long_or_is_not_installed_is_left_out(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    results = measured(text, tmp_path, "--preset", "large", "--longest-step", "1e-9")
    assert "left_out" not in results["presets"][0] and "more than 1e-09 s" in results["presets"][1]["left_out"]
    assert results["preparation"] == {"left_out": "datasets is not installed"}
    assert "large              left out: a step would take" in capsys.readouterr().out


def test_a_text_that_is_not_there_is_one_line(tmp_path, capsys):
    assert data_speed.main(["--data", str(tmp_path)]) == 3
    assert "holds no train.*" in capsys.readouterr().err


def test_both_sides_prepare_the_same_ids(text, tmp_path):
    datasets = pytest.importorskip("datasets")
    of_text = {"data.train_data_path": str(text / "train"), "data.src_suffix": "en", "data.tgt_suffix": "de"}
    config = with_values(Config(), {**of_text, "data.tokenizer_name": "char", "data.vocab_size": 300})
    src, tgt = tmp_path / "src", tmp_path / "tgt"
    assert write_repeated(config, src, tgt, pairs=150) == PAIRS
    lines = (text / "train.de").read_text().splitlines()
    assert tgt.read_text().splitlines() == [*lines, *lines, *lines[:30]]
    ours = DataModule(data=config.data, cache_dir=tmp_path / "ours", report=lambda _: None)
    ours.setup()
    prepare_with_datasets(src, tgt, ours.tokenizers, tmp_path / "theirs")
    theirs = datasets.load_from_disk(tmp_path / "theirs" / "prepared")
    assert len(theirs) == 150
    for pair in range(150):
        for side, found in (("src", ours.train_store.src), ("tgt", ours.train_store.tgt)):
            assert np.array_equal(theirs[pair][side], found(pair % PAIRS))
