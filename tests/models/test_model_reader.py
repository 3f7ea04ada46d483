"""A model read out against the model itself: all variants in float64, and what lower precisions cost."""

import itertools

import pytest
import torch
from small_models import VOCAB, assert_same, decode_step, small
from torch import nn

from pytorch_dl.models.lowered import PACKED_INPUTS, PRODUCTS, can_pack, product_of
from pytorch_dl.models.reader import Reader, is_known
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer, TransformerEncoderLayer

NAMES = ("positions", "norm_first", "norm_type", "activation", "bias", "n_kv_heads")
CHOICES = (
    ("rope", "sinusoidal", "learned"),
    (True, False),
    ("rmsnorm", "layernorm"),
    ("swiglu", "relu"),
    (True, False),
    (None, 2),
)
VARIANTS = [dict(zip(NAMES, values, strict=True)) for values in itertools.product(*CHOICES)]


@pytest.mark.usefixtures("float64")
@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(str(value) for value in variant.values()))
def test_reading_is_the_model_s_own_decoding(variant) -> None:
    model = small(**variant).eval()
    reader = Reader(model)
    src = torch.randint(1, VOCAB, (3, 6))
    src[1, 3:] = 0
    caches = model.start_decoding(src, beam_size=2), reader.start_decoding(src, beam_size=2)
    for step in range(7):
        tokens = torch.randint(1, VOCAB, (caches[0].positions.size(0), 2))
        expected, read = decode_step(model, tokens, caches[0]), reader.project(reader.decode_step(tokens, caches[1]))
        assert_same(read, expected, relative=1e-11, what=step)
        order = torch.randint(0, 2, tokens.shape)
        for cache in caches:
            cache.reorder(order)
            if step == 3:
                cache.keep(torch.tensor([0, 2]))


@pytest.mark.usefixtures("float64")
@torch.no_grad()
@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_beams_that_begin_alike_are_computed_once(positions) -> None:
    model = small(positions=positions).eval()
    reader, src, rows = Reader(model), torch.randint(1, VOCAB, (3, 6)), []
    norm = reader.decoder.norm
    reader.decoder.norm = lambda x: (rows.append(tuple(x.shape[:2])), norm(x))[1]
    caches = model.start_decoding(src, beam_size=4), reader.start_decoding(src, beam_size=4)
    for step in range(4):
        tokens = torch.randint(1, VOCAB, (3, 4)) if step else torch.tensor([[1], [2], [1]]).expand(3, 4)
        expected, read = model.decode_step(tokens, caches[0]), reader.decode_step(tokens, caches[1])
        assert_same(read, expected, relative=1e-11, what=step)
        for cache in caches:
            cache.reorder(torch.tensor([[1, 0, 0, 3]] * 3))
    assert rows == [(3, 1), (3, 4), (3, 4), (3, 4)]


@pytest.mark.usefixtures("float64")
@torch.no_grad()
def test_short_sources_are_encoded_apart() -> None:
    model, lengths = small().eval(), [12] * 5 + [7] * 20 + [3] * 20 + [1] * 20
    src = torch.randint(1, VOCAB, (len(lengths), 12)) * (torch.arange(12) < torch.tensor(lengths).unsqueeze(1))
    reader, widths = Reader(model), []
    first = reader.encoder[0]
    reader.encoder[0] = lambda x, *given: (widths.append(tuple(x.shape[:2])), first(x, *given))[1]
    expected, read = model.start_decoding(src), reader.start_decoding(src)
    assert widths == [(16, 12), (16, 7), (16, 3), (17, 1)]
    for ours, theirs in zip(read.memories, expected.memories, strict=True):
        for part, whole in zip(ours, theirs, strict=True):
            for row, length in enumerate(lengths):
                assert_same(part[row, :, :length], whole[row, :, :length], relative=1e-11, what=row)


class MyDecoderLayer(TransformerDecoderLayer):
    """A user's own."""


class MyEncoderLayer(TransformerEncoderLayer):
    """A user's own."""


CHANGES = [
    {},
    {"decoder_layer": MyDecoderLayer},
    {"encoder_layer": MyEncoderLayer},
    {"bias": True},
    {"norm_first": False},
]


@torch.no_grad()
@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes))
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 0.05), ("int8", 0.1)])
def test_lower_precision_costs_little(precision, bound, changes) -> None:
    model = small(**changes).eval()
    assert is_known(model, "decoder") == ("decoder_layer" not in changes)
    assert is_known(model, "encoder") == ("encoder_layer" not in changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reader = Reader(model, precision=precision)
    src = torch.randint(1, VOCAB, (4, 6))
    caches = model.start_decoding(src, beam_size=3), reader.start_decoding(src, beam_size=3)
    for _ in range(5):
        tokens = torch.randint(1, VOCAB, (4, 3))
        expected, read = decode_step(model, tokens, caches[0]), reader.project(reader.decode_step(tokens, caches[1]))
        error = (read.float() - expected).norm() / expected.norm()
        assert error < bound
        assert precision == "fp32" or error > 1e-6, "it was not lowered"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Adapted(nn.Linear):
    """A linear layer with an addition of a user's own."""

    def forward(self, x):
        return super().forward(x) + 0.1 * x.sum(-1, keepdim=True)


@torch.no_grad()
@pytest.mark.parametrize("where", ["decoder_layers.0.cross_attention.q_proj", "encoder_layers.0.feed_forward.in_proj"])
def test_linear_layers_of_a_user_s_own_are_called(where) -> None:
    model = small().eval()
    model.get_submodule(where).__class__ = Adapted
    assert not is_known(model, where[:7])
    reader, src, tokens = Reader(model), torch.randint(1, VOCAB, (2, 6)), torch.randint(1, VOCAB, (2, 1))
    expected, read = model.start_decoding(src), reader.start_decoding(src)
    torch.testing.assert_close(reader.decode_step(tokens, read), model.decode_step(tokens, expected))


@torch.no_grad()
def test_an_activation_of_a_user_s_own_gets_the_precision_of_its_weights() -> None:
    model = small(activation=nn.PReLU()).eval()
    src, tokens = torch.randint(1, VOCAB, (2, 6)), torch.randint(1, VOCAB, (2, 1))
    reader = Reader(model, precision="bf16")
    expected = model.decode_step(tokens, model.start_decoding(src))
    torch.testing.assert_close(reader.decode_step(tokens, reader.start_decoding(src)), expected, rtol=0.1, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("precision", sorted(PRODUCTS))
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_linear_layer_s_with_factors_of_rows_and_inputs(precision, bias) -> None:
    linear = nn.Linear(48, 40, bias=bias)
    x, factor, scale = torch.randn(5, 3, 48), torch.rand(5, 3, 1) + 0.5, torch.rand(48) + 0.5
    bound = {"fp32": 1e-6, "bf16": 0.02, "int8": 0.03}[precision]
    for given, inputs in ((None, x), (scale, x * scale)):
        product = product_of(linear, precision, scale=given)
        plain, scaled = product(x).float(), product(x, factor)
        assert (plain - linear(inputs)).norm() < bound * plain.norm()
        assert (scaled - linear(inputs * factor)).norm() < bound * scaled.norm()


@torch.no_grad()
def test_rows_of_8_bits_do_not_depend_on_each_other() -> None:
    product = product_of(nn.Linear(64, 96), "int8")
    x = torch.randn(37, 64) * torch.logspace(-3, 3, 37).unsqueeze(1)
    whole = product(x)
    for rows in (1, 2, 3, 16, 17, 31):
        assert torch.equal(product(x[:rows]), whole[:rows])
    assert torch.isfinite(product(torch.zeros(2, 64))).all()


@pytest.mark.skipif(not can_pack(torch.ones(8, 8)), reason="this CPU has no bf16 products")
@pytest.mark.parametrize("shape", [(1, 64), (3, 96), (64, 256), (7, PACKED_INPUTS)])
def test_a_packed_weight_gives_the_same_bits(shape) -> None:
    x, linear = torch.randn(shape), nn.Linear(shape[1], 80, bias=False)
    product = product_of(linear, "bf16")
    assert product.is_packed and not product_of(nn.Linear(PACKED_INPUTS + 1, 8), "bf16").is_packed
    assert torch.equal(product(x), nn.functional.linear(x.bfloat16(), linear.weight.bfloat16()))


def test_making_a_reader_leaves_the_model_in_its_mode() -> None:
    model = small().train()
    reader = Reader(model)
    assert all(module.training for module in model.modules())
    assert reader.training, "a search refuses it"
    for precision in PRODUCTS:
        reader = Reader(model.train(), precision=precision)
        assert reader.training and not model.eval().training and not reader.training, "it follows the model"
