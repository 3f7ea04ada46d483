"""The model: attention, layers, and the encoder-decoder made of them."""

from pytorch_dl.models.attention import MultiHeadAttention
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = ["MultiHeadAttention", "OptimizedTransformer", "TransformerDecoderLayer", "TransformerEncoderLayer"]
