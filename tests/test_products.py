"""The measurement of a step's matrix products: the products that it lists are those that a step computes."""

import json
from collections import Counter
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark import products
from benchmark.contenders.ours import OursOnText
from benchmark.measuring.step_lines import LOSS, OPTIMIZER, PRODUCTS, STEP, lines_of
from benchmark.race.workload import configuration, endless, prepare, text_settings
from pytorch_dl.config import Config
from pytorch_dl.models.compilers import missing_for_compilation

SETTINGS = [
    *("model.d_model=16", "model.n_heads=2", "model.num_encoder_layers=2", "model.num_decoder_layers=1"),
    *("model.max_seq_len=64", "data.max_length=64", "data.tokenizer_name=char", "data.vocab_size=300"),
    *("training.mixed_precision=false", "system.num_threads=1", "system.compile=false"),
]


def test_products_are_those_of_a_step(tmp_path):
    config = configuration(Config(), text_settings(None, src_suffix="", tgt_suffix=""), SETTINGS)
    work = prepare(config, tmp_path, pairs_per_step=4)
    side = OursOnText(config, work.tokenizers, work.loader, run_dir=str(tmp_path / "run"))
    batch = next(endless(work.loader))
    seen = Counter[tuple[int, int, int]]()

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.mm.default:
                (rows, inner), (_, columns) = args[0].shape, args[1].shape
                seen[rows, inner, columns] += 1
            return func(*args, **(kwargs or {}))

    with FlopCounterMode(display=False) as counter, Seen():
        side.step(batch)
    listed = products.products_of(side.model, batch)
    shapes = Counter[tuple[int, int, int]]()
    for product, times in listed.items():
        shapes[product.rows, product.inner, product.columns] += times
        found = products.call_of(product, side.trainer)()
        assert found.shape == (product.rows, product.columns)
    assert shapes == seen
    assert sum(p.flops * times for p, times in listed.items()) == counter.get_flop_counts()["Global"][torch.ops.aten.mm]


def test_what_is_written_adds_up(tmp_path, monkeypatch):
    options = ["--pairs-per-step", "4", "--steps", "1", "--repeats", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["products.py", *options, *SETTINGS])
    products.main()
    found = json.loads((tmp_path / "products-B.json").read_text())
    parts = found["parts_ms"]
    assert sum(parts.values()) == found["step_ms"]
    assert parts["products"] == sum(row["ms"] * row["times"] for row in found["products"]) > 0 < parts["optimizer"]
    table = (tmp_path / "products-B.md").read_text()
    assert table.count("\n| gradient of the weights |") == sum(row["turned"] for row in found["products"]) > 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.skipif(missing_for_compilation("cpu") is not None, reason="no C++ compiler")
def test_lines_of_a_compiled_step_add_up(tmp_path):
    settings = [word for word in SETTINGS if not word.startswith(("system.compile", "model.num_encoder"))]
    settings += ["system.compile=true", "model.num_encoder_layers=1", "training.mixed_precision=bf16"]
    config = configuration(Config(), text_settings(None, src_suffix="", tgt_suffix=""), settings)
    work = prepare(config, tmp_path, pairs_per_step=4)
    side = OursOnText(config, work.tokenizers, work.loader, run_dir=str(tmp_path / "run"))
    batch = next(endless(work.loader))
    side.step(batch)
    lines = lines_of(side.model, [partial(side.step, batch)] * 2)
    whole = lines.pop(STEP).seconds
    assert sum(line.seconds for line in lines.values()) == pytest.approx(whole)
    assert all(line.seconds > 0 for line in lines.values())
    linear = sum(products.products_of(side.model, batch).values()) - 3  # of the loss, which is a line of its own
    assert lines[PRODUCTS["mm"]].calls == linear
    assert lines[PRODUCTS["bmm"]].calls == 3 * 6  # of each attention two, and each has two gradients
    assert {"softmax of attention, with its mask", "gate of the feed-forward layer, with its dropout"} <= lines.keys()
    assert lines[LOSS].calls == lines[OPTIMIZER].calls == 1
    assert lines_of(side.model, [partial(side.step, batch)])[LOSS].calls == 1  # the clocks of the first were taken out
