"""The whole model: against torch.nn.Transformer, its sizes, its options and what can be passed in."""

import re
from typing import Any

import pytest
import torch
from small_models import VOCAB, assert_same, gradients, random_pairs, sides, small, summed_loss
from torch import Tensor, nn
from torch_oracle import Twin, assert_same_gradients, copy_weights, of_decoder_layer, of_encoder_layer, of_module

from pytorch_dl.models import MultiHeadAttention, OptimizedTransformer, TransformerDecoderLayer, TransformerEncoderLayer
from pytorch_dl.models.feed_forward import PLAIN
from pytorch_dl.models.positions import Rotation


class NoPositions(nn.Module):
    """The embeddings as they are."""

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        return x, None


def torch_twins(ours: OptimizedTransformer, theirs: nn.Transformer) -> list[Twin]:
    twins: list[Twin] = []
    for layer, other in zip(ours.encoder_layers, theirs.encoder.layers, strict=True):
        assert isinstance(layer, TransformerEncoderLayer)
        assert isinstance(other, nn.TransformerEncoderLayer)
        twins += of_encoder_layer(layer, other)
    for layer, other in zip(ours.decoder_layers, theirs.decoder.layers, strict=True):
        assert isinstance(layer, TransformerDecoderLayer)
        assert isinstance(other, nn.TransformerDecoderLayer)
        twins += of_decoder_layer(layer, other)
    for norm, other in ((ours.encoder_norm, theirs.encoder.norm), (ours.decoder_norm, theirs.decoder.norm)):
        twins += of_module(norm, other) if other is not None else []
    return twins


def torch_transformer(model: OptimizedTransformer, *, activation: str, norm_first: bool) -> nn.Transformer:
    """torch.nn's model; in post-norm without the norms that it adds after the last layer."""
    layer: dict[str, Any] = {"activation": activation, "norm_first": norm_first, "batch_first": True, "dropout": 0.0}
    norms = [nn.LayerNorm(model.d_model) if norm_first else None for _ in range(2)]
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(model.d_model, 4, 24, **layer), 2, norms[0], enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(model.d_model, 4, 24, **layer), 2, norms[1])
    return nn.Transformer(model.d_model, 4, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("positions", ["sinusoidal", "none"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", list(PLAIN))
def test_the_whole_model_is_that_of_torch(activation: str, norm_first: bool, positions: str) -> None:
    scheme = positions if positions != "none" else lambda *_: NoPositions()
    options: dict[str, Any] = {"activation": activation, "norm_first": norm_first, "positions": scheme}
    model = small(norm_type="layernorm", bias=True, tie_embeddings="decoder", **options)
    oracle = torch_transformer(model, activation=activation, norm_first=norm_first)
    twins = torch_twins(model, oracle)
    copied = nn.ModuleList([model.encoder_layers, model.decoder_layers, model.encoder_norm, model.decoder_norm])
    copy_weights(twins, copied, oracle)
    src_table, tgt_table = (
        table.weight.detach().clone().requires_grad_() for table in (model.src_embedding, model.tgt_embedding)
    )

    def embedded(tokens: Tensor, table: Tensor) -> Tensor:
        x = table[tokens] * 4.0  # the square root of d_model
        places = torch.arange(tokens.size(1)).unsqueeze(1) / 10000 ** (torch.arange(0, 16, 2) / 16)
        interleaved = torch.stack((places.sin(), places.cos()), dim=-1).flatten(1)
        return x + interleaved if positions == "sinusoidal" else x

    src, tgt, _ = sides([[pair] for pair in random_pairs(4)], src_width=8, tgt_width=8)
    masks = {name: src.tokens == 0 for name in ("src_key_padding_mask", "memory_key_padding_mask")}
    hidden = oracle(
        embedded(src.tokens, src_table),
        embedded(tgt.tokens, tgt_table),
        tgt_mask=~torch.ones(8, 8, dtype=torch.bool).tril(),
        tgt_key_padding_mask=tgt.tokens == 0,
        **masks,
    )
    real = tgt.tokens > 0
    actual, expected = model(src.tokens, tgt.tokens)[real], (hidden @ tgt_table.T)[real]
    assert_same(actual, expected, relative=1e-10)
    weight = torch.randn_like(actual)
    (actual * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_same_gradients(twins, relative=1e-10)
    for ours, theirs in ((model.src_embedding.weight, src_table), (model.tgt_embedding.weight, tgt_table)):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert_same(ours.grad, theirs.grad, relative=1e-10)


@pytest.mark.parametrize("keyed", [True, False])
def test_checkpointing_changes_no_gradient(keyed: bool) -> None:
    model = small(dropout=0.3, positions="learned")
    src, tgt, labels = sides([random_pairs(4)], src_width=28, tgt_width=28)
    if not keyed:
        src, tgt = src._replace(keys=None), tgt._replace(keys=None)
    calls: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.register_forward_pre_hook(lambda module, _: calls.append(module))
    found, counts = [], []
    for model.use_checkpointing in (False, True):
        torch.manual_seed(1)
        calls.clear()
        found.append(gradients(model, summed_loss(model, src, tgt, labels)))
        counts.append(len(calls))
    assert counts == [6, 12]  # the second time each layer runs again in the backward pass
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_checkpointing_is_for_training_only() -> None:
    model = small(use_checkpointing=True, dropout=0.5).eval()
    tokens = torch.randint(1, VOCAB, (2, 5))
    assert torch.equal(model(tokens, tokens), model(tokens, tokens))


def test_initial_logits_are_neither_flat_nor_wild() -> None:
    for tie in ("all", "decoder", "none"):
        torch.manual_seed(0)
        model = OptimizedTransformer(src_vocab_size=500, tgt_vocab_size=500, d_model=64, n_heads=4, tie_embeddings=tie)
        logits = model.eval()(torch.randint(1, 500, (4, 10)), torch.randint(1, 500, (4, 10)))
        assert 0.5 < logits.std() < 3


def test_dropout_keys_decide_and_nothing_else_is_random() -> None:
    model = small(dropout=0.3)
    src, tgt, _ = sides([random_pairs(3)], src_width=21, tgt_width=21)
    assert torch.equal(model.hidden(src, tgt), model.hidden(src, tgt))
    assert src.keys is not None
    other = model.hidden(src._replace(keys=src.keys + 1), tgt)
    assert not torch.equal(other, model.hidden(src, tgt))


def test_a_model_saves_only_what_it_learned() -> None:
    assert not [name for name in small(positions="rope").state_dict() if "cos" in name or "sin" in name]
    model, other = small(tie_embeddings="decoder"), small(tie_embeddings="decoder")
    other.load_state_dict(model.state_dict())
    tokens = torch.randint(1, VOCAB, (2, 5))
    assert torch.equal(model(tokens, tokens), other(tokens, tokens))


def test_autocast_runs_in_half_precision_and_stays_near() -> None:
    model = small(attention="sdpa")
    tokens = torch.randint(1, VOCAB, (2, 5))
    exact = model(tokens, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(tokens, tokens)
    assert out.dtype == torch.bfloat16
    assert_same(out.float(), exact, relative=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_embeddings": "al"}, "tie_embeddings must be one of all, decoder, none, got 'al'"),
        (
            {"tgt_vocab_size": 24},
            "tie_embeddings='all' needs one vocabulary, got src_vocab_size=23 and tgt_vocab_size=24; "
            "use 'decoder' or 'none'",
        ),
        ({"d_model": 18}, "d_model (18) must be divisible by n_heads (4)"),
        ({"n_kv_heads": 3}, "n_heads (4) must be divisible by n_kv_heads (3)"),
        ({"d_model": 12}, "rotary positions need an even head width, got d_model / n_heads = 3"),
        (
            {"positions": "alibi"},
            "positions must be a callable or one of rope, sinusoidal, learned, got 'alibi'",
        ),
        (
            {"activation": "swish"},
            "activation must be a callable or one of relu, gelu, swiglu, geglu, got 'swish'",
        ),
        ({"norm_type": "rms"}, "norm_type must be a callable or one of rmsnorm, layernorm, got 'rms'"),
        ({"attention": "flash"}, "attention must be a callable or one of auto, sdpa, plain, got 'flash'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_errors_tell_the_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small(**changes)


def test_a_row_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a row of 33 tokens is longer than max_seq_len \(32\)$"):
        small()(torch.ones(1, 33, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))


@pytest.mark.slow
def test_the_plain_call_can_be_exported() -> None:
    model = small().eval()
    src, tgt = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 5, 6], [1, 9, 8]])
    exported = torch.export.export(model, (src, tgt)).module()
    torch.testing.assert_close(exported(src, tgt), model(src, tgt))


def test_a_source_of_padding_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^row 1 of the source holds nothing but padding; leave it out$"):
        small()(torch.tensor([[5, 6], [0, 0]]), torch.ones(2, 2, dtype=torch.int64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")
def test_compiled_layers_are_the_same_in_loss_and_gradients() -> None:
    model = small(dropout=0.3)
    src, tgt, labels = sides([random_pairs(4)], src_width=28, tgt_width=28)
    loss = summed_loss(model, src, tgt, labels)
    expected = gradients(model, loss)
    model.compile_layers()
    compiled = summed_loss(model, src, tgt, labels)
    assert_same(compiled, loss, relative=1e-5)
    for name, gradient in gradients(model, compiled).items():
        assert_same(gradient, expected[name], relative=1e-4, what=name)
