"""The same numbers in onnxruntime, for any number of sentences and any length; skipped without its packages."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import TOKENIZERS, of_choice, pairwise_choices, tiny
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.export import onnx as exporter
from pytorch_dl.export.folder import Origin
from pytorch_dl.export.pairs import Pairs, random_pairs
from pytorch_dl.export.parity import Parity, Reference
from pytorch_dl.files import damage
from pytorch_dl.models.norms import RMSNorm
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)
SHARED = TOKENIZERS["shared"]
ORIGIN = Origin("runs/mine", "0.1.0")


def export(model: OptimizedTransformer, pair: TokenizerPair, out: Path, *, seed: int = 1) -> Parity:
    """On 17 pairs: a batch of 16, and one by itself."""
    pairs = random_pairs(pair, max_seq_len=model.max_seq_len, why="test", count=17, seed=seed)
    return exporter.export(model, pair, out, pairs=pairs, origin=ORIGIN)


SHAPES: list[dict[str, Any]] = [
    {"n_kv_heads": 2, "num_decoder_layers": 2},
    {"positions": "learned", "norm_first": False, "norm_type": "layernorm", "bias": True, "activation": "gelu"},
    {"positions": "sinusoidal", "attention": "sdpa", "n_kv_heads": 1, "activation": "relu", "num_encoder_layers": 2},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_an_export_is_exact_and_its_example_says_the_same(
    changes: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny(SHARED, seed=3, **changes)
    before = copy.deepcopy(model.state_dict())
    parity = export(model, SHARED, tmp_path / "out")
    assert (parity.pairs, parity.equal) == (17, 17)
    assert 0 < parity.largest < 1e-4
    assert capfd.readouterr().err == ""
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert damage(tmp_path / "out") is None
    lines = ["ab", "", "<s> b", "x" * 40, "ein Bär"]
    theirs = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "out/translate.py")],
        input="\n".join(lines).encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    sources = [ids[:23] for ids in SHARED.src.encode_batch(lines)]
    expected = [ids for ids in sources if ids]
    outputs = iter(Reference(model, SHARED, Pairs(expected, expected, "lines")).outputs)
    limits = [min(3 * len(ids) + 20, 24) for ids in sources]
    written = [next(outputs)[:limit] if ids else [] for ids, limit in zip(sources, limits, strict=True)]
    shown = [SHARED.tgt.decode(ids).replace("\n", " ").replace("\r", " ") for ids in written]
    assert theirs.stdout.decode().split("\n")[:-1] == shown


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(pairwise_choices())))
def test_any_two_settings_together_are_exact(number: int, tmp_path: Path) -> None:
    model, pair = of_choice(pairwise_choices()[number], seed=number)
    assert export(model, pair, tmp_path / "out", seed=number).largest < 1e-4


class MyNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class MyLayer(TransformerDecoderLayer):
    def forward(self, x: Tensor, *inputs: Any, **options: Any) -> Tensor:
        return super().forward(x * 0.5, *inputs, **options)


def test_parts_of_ones_own_are_exported_too(tmp_path: Path) -> None:
    model = tiny(SHARED, norm_type=MyNorm, decoder_layer=MyLayer, activation=lambda x: F.relu(x) ** 2)
    assert export(model, SHARED, tmp_path / "out").largest < 1e-4


class Unconvertible(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cummax(-1).values


def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"torch\.onnx cannot convert this model: .*cummax.* Fix: export with --to"):
        export(tiny(SHARED, activation=Unconvertible()), SHARED, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_export_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = exporter._write

    def wrong(model: OptimizedTransformer, folder: Path) -> None:
        other = copy.deepcopy(model)
        for norm in (part for part in other.decoder_layers.modules() if isinstance(part, RMSNorm)):
            norm.weight.data *= 1.05
        right(other, folder)

    monkeypatch.setattr(exporter, "_write", wrong)
    with pytest.raises(CheckpointError, match="the export to ONNX does not compute what the model does"):
        export(tiny(SHARED), SHARED, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
