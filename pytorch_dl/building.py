"""The untrained model of a configuration and its tokenizers, and the device it is for."""

import torch

from pytorch_dl.config import Config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import ConfigError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer


def build_model(config: Config, tokenizers: TokenizerPair) -> OptimizedTransformer:
    """The untrained model of a config and its tokenizers, which is a function of its seed."""
    torch.manual_seed(config.system.seed)
    return _model(config, tokenizers).to(choose_device(config.system.device))


def weightless_model(config: Config, tokenizers: TokenizerPair) -> OptimizedTransformer:
    """The same model without memory for its weights: their shapes."""
    with torch.device("meta"):
        return _model(config, tokenizers)


def choose_device(name: str) -> torch.device:
    """The device of `system.device`: auto is the GPU when there is one."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}", fix="give auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the device cuda is asked for, but torch finds no GPU", fix="give auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _model(config: Config, tokenizers: TokenizerPair) -> OptimizedTransformer:
    shape = {**config.model.__dict__, "pad_token_id": tokenizers.tgt.pad_id}
    return OptimizedTransformer(
        src_vocab_size=tokenizers.src.vocab_size, tgt_vocab_size=tokenizers.tgt.vocab_size, **shape
    )
