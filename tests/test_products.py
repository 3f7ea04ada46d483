"""The measurement of a step's matrix products: the products that it lists are those that a step computes."""

import json
from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark import products
from benchmark.contenders.ours import OursOnText
from benchmark.race.workload import configuration, endless, prepare, text_settings
from pytorch_dl.config import Config

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
