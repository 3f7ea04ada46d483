"""Each name that the configuration offers, and parts of your own, in a model that trains one step."""

import inspect
import itertools
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from small_models import VOCAB, decode_step, gradients, random_pairs, sides, small, summed_loss
from torch import Tensor, nn

from pytorch_dl.config.model_config import ModelConfig
from pytorch_dl.models import OptimizedTransformer, TransformerDecoderLayer, TransformerEncoderLayer
from pytorch_dl.models.attention import ATTENTION
from pytorch_dl.models.feed_forward import GATED, PLAIN
from pytorch_dl.models.norms import NORMS
from pytorch_dl.models.positions import POSITIONS, Rotation

CHOICES = {
    name: get_args(field.annotation)
    for name, field in ModelConfig.model_fields.items()
    if get_origin(field.annotation) is Literal
}


def test_arguments_are_the_fields_of_the_config_with_its_defaults() -> None:
    arguments = dict(inspect.signature(OptimizedTransformer).parameters)
    beyond = {name: arguments.pop(name) for name in ("src_vocab_size", "tgt_vocab_size")}
    beyond |= {name: arguments.pop(name) for name in ("encoder_layer", "decoder_layer")}
    assert all(argument.kind is inspect.Parameter.KEYWORD_ONLY for argument in (*arguments.values(), *beyond.values()))
    assert {name: argument.default for name, argument in arguments.items()} == ModelConfig().__dict__


def test_choices_of_the_config_are_the_names_of_the_parts() -> None:
    assert {
        "activation": (*PLAIN, *GATED),
        "norm_type": tuple(NORMS),
        "positions": tuple(POSITIONS),
        "tie_embeddings": ("all", "decoder", "none"),
        "attention": tuple(ATTENTION),
    } == CHOICES


def one_step(model: OptimizedTransformer) -> float:
    """Train one step, in which every parameter must take part, and return the fall of the loss."""
    src, tgt, labels = sides([[pair] for pair in random_pairs(4)], src_width=8, tgt_width=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = summed_loss(model, src, tgt, labels)
    assert not [name for name, gradient in gradients(model, loss).items() if gradient.abs().max() < 1e-6]
    optimizer.step()
    return (loss - summed_loss(model, src, tgt, labels)).item()


@pytest.mark.parametrize(("field", "choice"), [(field, choice) for field in CHOICES for choice in CHOICES[field]])
def test_each_choice_of_the_config_trains(field: str, choice: str) -> None:
    config = ModelConfig(d_model=16, n_heads=4, num_encoder_layers=1, num_decoder_layers=1, dropout=0.0)
    setattr(config, field, choice)
    model = OptimizedTransformer(src_vocab_size=VOCAB, tgt_vocab_size=VOCAB, **config.__dict__)
    assert one_step(model) > 0


@pytest.mark.parametrize("use", ["training", "decoding"])
@pytest.mark.parametrize(
    "choices",
    list(itertools.product(POSITIONS, (True, False), NORMS, ("relu", "swiglu"))),
    ids=lambda c: "-".join(map(str, c)),
)
def test_choices_go_together(choices: tuple[str, bool, str, str], use: str) -> None:
    positions, norm_first, norm_type, activation = choices
    model = small(positions=positions, norm_first=norm_first, norm_type=norm_type, activation=activation, bias=True)
    if use == "training":
        assert one_step(model) > 0
    else:
        tokens = torch.randint(1, VOCAB, (2, 5))
        cache = model.start_decoding(tokens)
        assert decode_step(model, tokens[:, :1], cache).shape == (2, 1, VOCAB)


class CustomEncoderLayer(TransformerEncoderLayer):
    """As the documentation shows it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = nn.Parameter(torch.zeros(args[0]))

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return super().forward(x, **options) + self.shift


class CustomDecoderLayer(TransformerDecoderLayer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = nn.Parameter(torch.zeros(args[0]))

    def forward(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        return super().forward(x, *args, **options) + self.shift


class WrappedDecoderLayer(nn.Module):
    """Not a subclass: it has the two methods that the documentation asks for, and begins with weights of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.inner = TransformerDecoderLayer(*args, **kwargs)
        self.adapter = nn.Linear(args[0], args[0])
        nn.init.zeros_(self.adapter.weight)
        nn.init.ones_(self.adapter.bias)

    def forward(self, x: Tensor, memory: Tensor, **options: Any) -> Tensor:
        x = self.inner(x, memory, **options)
        return x + self.adapter(x)

    def project_memory(self, memory: Tensor) -> Any:
        return self.inner.project_memory(memory)


class ScaledPositions(nn.Module):
    """A scheme of one learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        return x + self.slope * positions.unsqueeze(-1), None


def test_a_layer_of_your_own_keeps_its_initial_weights() -> None:
    sizes = {"src_vocab_size": 9, "tgt_vocab_size": 9, "d_model": 16, "n_heads": 2}
    layer = OptimizedTransformer(**sizes, decoder_layer=WrappedDecoderLayer).decoder_layers[0]
    assert layer.adapter.weight.eq(0).all()
    assert layer.adapter.bias.eq(1).all()


def test_a_layer_of_your_own_decodes() -> None:
    """Token by token as all at once."""
    model = small(decoder_layer=WrappedDecoderLayer).double().eval()
    src, tgt = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 5, 6, 7], [1, 9, 8, 3]])
    cache = model.start_decoding(src)
    steps = torch.cat([decode_step(model, tgt[:, place : place + 1], cache) for place in range(4)], dim=1)
    assert torch.allclose(steps, model(src, tgt), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "parts",
    [
        {"encoder_layer": CustomEncoderLayer},
        {"decoder_layer": CustomDecoderLayer},
        {"encoder_layer": CustomEncoderLayer, "decoder_layer": CustomDecoderLayer, "use_checkpointing": True},
        {"decoder_layer": WrappedDecoderLayer},
        {"norm_type": nn.RMSNorm},
        {"norm_type": lambda d_model: nn.LayerNorm(d_model, eps=1e-3)},
        {"activation": torch.tanh},
        {"activation": nn.Softplus()},
        {"positions": lambda d_model, head_dim, max_seq_len: ScaledPositions()},
        {"attention": lambda q, k, v, bias, dropout: ATTENTION["plain"](q, k, v * 0.5, bias, dropout)},
    ],
    ids=lambda parts: "-".join(parts),
)
def test_parts_of_your_own_train(parts: dict[str, Any]) -> None:
    model = small(**parts)
    assert one_step(model) > 0
    for name, layer in (("encoder_layer", model.encoder_layers[0]), ("decoder_layer", model.decoder_layers[0])):
        assert isinstance(layer, parts.get(name, nn.Module))
