"""The FLOPs of a training step of all models that are compared, counted as `pytorch_dl.training.flops` does."""

from typing import Any

from benchmark.contenders.baseline import PlainTransformer
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.flops import Matrices


def step_flops(model: Any, batch: Batch) -> int:
    """FLOPs of a step of a model that is known here; `batch` lies on the CPU."""
    found = matrices_of(model)
    assert found, f"nobody counts the products of a {type(model).__name__}"
    return found.step_flops(batch)


def matrices_of(model: Any) -> Matrices | None:
    """Of one of the models; None of one that is not known here."""
    if isinstance(model, OptimizedTransformer):
        return Matrices.of(model)
    if isinstance(model, PlainTransformer):
        return of_torch(model)
    return of_marian(model) if type(model).__name__ == "MarianMTModel" else None


def of_torch(model: PlainTransformer) -> Matrices:
    """Of torch.nn.Transformer, whose cross-attention has one matrix for queries, keys and values."""
    encoders: Any = model.transformer.encoder.layers
    decoders: Any = model.transformer.decoder.layers
    memory = sum(layer.multihead_attn.in_proj_weight.numel() for layer in decoders) * 2 // 3
    return Matrices.of_layers(encoders, decoders, memory=memory, output=model.embedding, width=model.d_model)


def of_marian(model: Any) -> Matrices:
    """Of Hugging Face's Marian."""
    encoders, decoders = model.model.encoder.layers, model.model.decoder.layers
    memory = sum(
        part.weight.numel() for layer in decoders for part in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
    )
    return Matrices.of_layers(encoders, decoders, memory=memory, output=model.lm_head, width=model.config.d_model)
