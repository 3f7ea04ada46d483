"""The linear layers of the model, with the weights that they begin with."""

from torch import nn


def linear(in_features: int, out_features: int, *, bias: bool) -> nn.Linear:
    """Make a linear layer with Xavier's uniform weights (Glorot and Bengio 2010) and a bias of zeros, if any."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
