"""The growth of a step's cost, at the smallest sizes: what is counted is exact, what is written holds together."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import growth
from benchmark.measuring.roofline import Probe, Roof, least_bytes, seconds
from benchmark.sweeps.sizes import FULL, QUICK, Scale, packed_batches
from pytorch_dl.training.flops import sentence_lengths

CPU = torch.device("cpu")
POINTS = [
    pytest.param(replace(scale.base, **{name: value}), id=f"{label}-{name}-{value}")
    for label, scale in (("full", FULL), ("quick", QUICK))
    for name, values in scale.sweeps.items()
    for value in values
]


def test_least_bytes_are_all_that_adam_keeps_read_and_written():
    trainer = growth.prepared(QUICK.base, growth.Setting(CPU, "fp32", False))[0]
    trainer.train_step(packed_batches(QUICK.base, 1), total_steps=100)
    kept = sum(2 * p.nbytes for p in trainer.model.parameters())  # a gradient is as large
    for state in trainer.update.optimizer.state.values():
        kept += state["exp_avg"].nbytes + state["exp_avg_sq"].nbytes
    assert least_bytes(trainer.model) == 2 * kept == 32 * trainer.model.num_parameters()


@pytest.mark.parametrize("point", POINTS)
def test_batches_hold_the_tokens_that_they_promise(point):
    batches = packed_batches(point, 2)
    assert len(batches) == 2
    for batch in batches:
        assert batch.num_src_tokens == batch.num_tgt_tokens == point.tokens
        assert batch.num_positions == 2 * point.tokens  # nothing is padding
        for ids, segments in ((batch.src, batch.src_segments), (batch.labels, batch.tgt_segments)):
            assert ids.min() >= 2 and ids.max() < point.vocabulary
            lengths = sentence_lengths(batch, segments)
            assert (lengths == point.sentence_length).all() and lengths.sum() == point.tokens
    assert not torch.equal(batches[0].src, batches[1].src)
    assert torch.equal(batches[0].src, packed_batches(point, 2)[0].src)


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_every_sweep_goes_through_the_base_point(scale: Scale):
    assert len(scale.sweeps) == 5
    for name, values in scale.sweeps.items():
        assert getattr(scale.base, name) in values and list(values) == sorted(set(values))
    for width in scale.sweeps["d_model"]:
        model = replace(scale.base, d_model=width).model
        assert model.d_ff == 4 * width and width == model.n_heads * scale.base.head_width


def test_the_roofline_rises_to_the_ridge_and_is_flat_beyond():
    roof = Roof({"a": [9.0, 100.0, 200.0], "b": [90.0]}, {"copy": [5.0, 4.0, 900.0], "add": [4.0]})
    assert (roof.matrix_rate, roof.bandwidth) == (100.0, 5.0)
    assert [roof.attainable(x) for x in (1.0, 19.0, 20.0, 21.0)] == [5.0, 95.0, 100.0, 100.0]


def test_rates_of_this_machine():
    roof, probe = Roof(), Probe(CPU, torch.float32, (32, 64), 1)
    for _ in range(2):
        roof.measure(probe, 3)
    assert {name: len(rates) for name, rates in roof.flops_per_s.items()} == {"32 x 32 x 32": 6, "64 x 64 x 64": 6}
    assert {name: len(rates) for name, rates in roof.bytes_per_s.items()} == {"copy": 6, "add": 6}
    assert roof.matrix_rate > 1e7 and roof.bandwidth > 1e7
    calls: list[None] = []
    assert len(seconds(lambda: calls.append(None), CPU, 2)) == 2 and len(calls) == 1 + 2 * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("growth")
    growth.main(["--quick", "--repeats", "3", "--steps", "1", "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "growth.json").read_bytes())


def test_a_quick_run_says_where_and_how_and_draws(written, folder):
    assert (folder / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert {"date", "commit", "cpu", "cpu_threads", "gpu", "torch"} <= written["machine"].keys()
    settings = written["settings"]
    assert (settings["repeats"], settings["steps"], settings["compiled"]) == (3, 1, False)
    assert settings["base"]["d_model"] == settings["model"]["d_model"] == QUICK.base.d_model
    assert written["measured"].keys() <= written["sweeps"]["d_model"][0].keys()
    assert {name: [p["value"] for p in points] for name, points in written["sweeps"].items()} == {
        name: list(values) for name, values in QUICK.sweeps.items()
    }
    repeats = written["roofline"]["repeats"]
    assert all(len(rates) == 3 * 5 for kind in repeats.values() for rates in kind.values())


def test_what_is_written_of_a_point_follows_from_its_repeats(written):
    roof = written["roofline"]
    for name, points in written["sweeps"].items():
        for point in points:
            assert point["point"][name] == point["value"]
            tokens, speed = point["tokens_per_step"], point["tokens_per_s"]
            assert tokens == 2 * point["point"]["tokens"] and len(speed["repeats"]) == 3
            assert speed["median"] == statistics.median(speed["repeats"]) > 0 < point["warmup_s"]
            assert point["step_s"] == pytest.approx(tokens / speed["median"])
            assert point["flops_per_s"] == pytest.approx(point["flops_per_step"] / point["step_s"])
            assert point["least_bytes_per_step"] == 32 * point["parameters"]
            intensity = point["flops_per_step"] / point["least_bytes_per_step"]
            assert point["intensity"] == pytest.approx(intensity)
            most = min(roof["matrix_flops_per_s"], roof["bandwidth_bytes_per_s"] * intensity)
            assert point["of_roofline"] == pytest.approx(point["flops_per_s"] / most)


def test_more_of_anything_costs_more_and_no_longer_sentences_more_memory(written):
    for name, points in written["sweeps"].items():
        flops, memory = ([point[key] for point in points] for key in ("flops_per_step", "memory_bytes"))
        assert flops == sorted(set(flops))
        if name == "sentence_length":  # the rows are of one width
            assert len(set(memory)) == 1 and len({point["parameters"] for point in points}) == 1
        else:
            assert memory == sorted(set(memory))


def test_the_printed_table_has_a_line_for_each_point(written):
    lines = growth.table(written)
    assert lines[0].split()[:4] == ["sweep", "value", "parameters", "tokens/s"]
    assert len(lines) == 1 + sum(map(len, QUICK.sweeps.values())) + 1
    assert lines[-1].startswith("the machine: ") and lines[-1].endswith("GB/s")
