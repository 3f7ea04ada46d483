"""Our model with the weights of a Hugging Face Marian model computes what that one computes.

The fixture is made by scripts/make_marian_fixture.py. What Marian does differently is passed in: its position table,
which has all sines before all cosines, and its activation.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import assert_same, decode_step
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models import OptimizedTransformer
from pytorch_dl.models.positions import Rotation

HERE = Path(__file__).parent


class MarianPositions(nn.Module):
    """Sines of all frequencies, then cosines of all frequencies, added to the embedding."""

    def __init__(self, d_model: int, head_dim: int, max_seq_len: int) -> None:
        super().__init__()
        angles = torch.arange(max_seq_len).unsqueeze(1) / 10000 ** (torch.arange(0, d_model, 2) / d_model)
        self.register_buffer("table", torch.cat((angles.sin(), angles.cos()), dim=1), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        assert isinstance(self.table, Tensor)
        return x + self.table[positions], None


def stored() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((HERE / "marian_fixture.json").read_text()), load_file(HERE / "marian_fixture.safetensors")


def rebuilt(shape: dict[str, Any], weights: dict[str, Tensor], **changes: Any) -> OptimizedTransformer:
    settings: dict[str, Any] = {
        "src_vocab_size": shape["vocab_size"],
        "tgt_vocab_size": shape["vocab_size"],
        "num_encoder_layers": shape["num_layers"],
        "num_decoder_layers": shape["num_layers"],
        **{name: shape[name] for name in ("d_model", "n_heads", "d_ff", "max_seq_len", "pad_token_id")},
        "activation": {"swish": F.silu}[shape["activation"]],
        "norm_type": "layernorm",
        "norm_first": False,
        "bias": True,
        "positions": MarianPositions,
    }
    model = OptimizedTransformer(**{**settings, **changes}).eval()
    model.load_state_dict(renamed(weights, shape["num_layers"]))
    return model


def renamed(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Our names for Marian's weights; all of them are used."""
    left = dict(weights)
    embedding = left.pop("model.shared.weight")
    ours = {f"{name}.weight": embedding for name in ("src_embedding", "tgt_embedding", "output")}
    for coder, index in ((coder, index) for coder in ("encoder", "decoder") for index in range(layers)):
        theirs, prefix = f"model.{coder}.layers.{index}", f"{coder}_layers.{index}"
        for kind in ("weight", "bias"):

            def take(name: str, theirs: str = theirs, kind: str = kind) -> Tensor:
                return left.pop(f"{theirs}.{name}.{kind}")

            q, k, v = (take(f"self_attn.{part}_proj") for part in "qkv")
            ours[f"{prefix}.self_attention.qkv_proj.{kind}"] = torch.cat((q, k, v))
            ours[f"{prefix}.self_attention.out_proj.{kind}"] = take("self_attn.out_proj")
            ours[f"{prefix}.self_residual.norm.{kind}"] = take("self_attn_layer_norm")
            if coder == "decoder":
                q, k, v = (take(f"encoder_attn.{part}_proj") for part in "qkv")
                ours[f"{prefix}.cross_attention.q_proj.{kind}"] = q
                ours[f"{prefix}.cross_attention.kv_proj.{kind}"] = torch.cat((k, v))
                ours[f"{prefix}.cross_attention.out_proj.{kind}"] = take("encoder_attn.out_proj")
                ours[f"{prefix}.cross_residual.norm.{kind}"] = take("encoder_attn_layer_norm")
            ours[f"{prefix}.feed_forward.in_proj.{kind}"] = take("fc1")
            ours[f"{prefix}.feed_forward.out_proj.{kind}"] = take("fc2")
            ours[f"{prefix}.ff_residual.norm.{kind}"] = take("final_layer_norm")
    assert set(left) == {"src", "tgt", "logits", "greedy"}
    return ours


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_logits_are_those_of_marian(attention: str) -> None:
    shape, tensors = stored()
    model = rebuilt(shape, tensors, attention=attention)
    src, tgt, expected = tensors["src"], tensors["tgt"], tensors["logits"]
    real = model.side(tgt).segments > 0
    assert (src == 0).sum() > 0
    assert not real.all()
    logits = model(src, tgt)
    assert (logits - expected)[real].abs().max() <= 1e-5
    assert_same(logits[real], expected[real], relative=1e-5)


@torch.no_grad()
def test_greedy_tokens_are_those_of_marian() -> None:
    shape, tensors = stored()
    model = rebuilt(shape, tensors)
    written, steps = tensors["tgt"][:, :1], tensors["greedy"].size(1)
    cache = model.start_decoding(tensors["src"])
    for _ in range(steps):
        logits = decode_step(model, written[:, -1:], cache)[:, 0]
        written = torch.cat((written, logits.scatter(1, written, float("-inf")).argmax(-1, keepdim=True)), dim=1)
    assert written[:, 1:].tolist() == tensors["greedy"].tolist()


@torch.no_grad()
@pytest.mark.parametrize("change", [{"positions": "sinusoidal"}, {"activation": "gelu"}, {"norm_type": nn.LayerNorm}])
def test_the_comparison_tells_variants_apart(change: dict[str, Any]) -> None:
    shape, tensors = stored()
    difference = (rebuilt(shape, tensors, **change)(tensors["src"], tensors["tgt"]) - tensors["logits"])[:, 0]
    assert (difference.abs().max() < 1e-5) == ("norm_type" in change)


def test_the_fixture_is_small() -> None:
    assert (HERE / "marian_fixture.safetensors").stat().st_size < 300_000


@pytest.mark.slow
def test_the_script_makes_the_fixture_again() -> None:
    pytest.importorskip("transformers")
    path = HERE.parent.parent / "scripts" / "make_marian_fixture.py"
    spec = importlib.util.spec_from_file_location("make_marian_fixture", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, tensors = stored()
    again = module.fixture()
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.allclose(again[name].double(), tensor.double(), atol=1e-5), name
