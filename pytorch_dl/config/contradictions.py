"""The rules between settings: each is a condition that may not hold, and a line that says so with the values."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_dl.config.model_config import Config

TRAINED_HERE = ("bpe", "unigram", "char", "byte")


def contradictions(config: "Config") -> list[str]:
    """Return one line for each contradiction, none for a sound config."""
    return [*_model(config), *_data(config), *_training(config)]


def _model(config: "Config") -> Iterator[str]:
    model = config.model
    head_dim, rest = divmod(model.d_model, model.n_heads)
    if rest:
        below = model.d_model - rest
        yield (
            f"model.d_model ({model.d_model}) must be divisible by model.n_heads ({model.n_heads}); "
            f"nearest: {below or model.n_heads} or {below + model.n_heads}"
        )
    elif model.positions == "rope" and head_dim % 2:
        yield f"model.positions: rope needs an even head width, got d_model / n_heads = {head_dim}"
    if model.positions == "sinusoidal" and model.d_model % 2:
        yield f"model.positions: sinusoidal needs an even model.d_model, got {model.d_model}"
    if model.n_kv_heads and model.n_heads % model.n_kv_heads:
        yield f"model.n_heads ({model.n_heads}) must be divisible by model.n_kv_heads ({model.n_kv_heads})"
    if model.attention_dropout and model.attention == "sdpa":
        yield f"model.attention_dropout ({model.attention_dropout}) needs model.attention: plain, got sdpa"


def _data(config: "Config") -> Iterator[str]:
    data, model = config.data, config.model
    if data.max_length > model.max_seq_len:
        yield f"data.max_length ({data.max_length}) is above model.max_seq_len ({model.max_seq_len})"
    if data.use_dynamic_batching and data.max_length > data.max_tokens_per_batch:
        yield f"data.max_length ({data.max_length}) is above data.max_tokens_per_batch ({data.max_tokens_per_batch})"
    if data.layout == "packed" and not data.use_dynamic_batching:
        yield "data.layout: packed fills rows by tokens and needs data.use_dynamic_batching: true, got false"
    if not data.shared_vocabulary and model.tie_embeddings == "all":
        yield "model.tie_embeddings: all needs one vocabulary, but data.shared_vocabulary is false; use decoder or none"
    if data.tokenizer_name not in TRAINED_HERE and not data.shared_vocabulary:
        yield f"data.tokenizer_name: {data.tokenizer_name} is one pretrained vocabulary, but data.shared_vocabulary is false"
    if data.val_split and data.val_data_path:
        yield f"data.val_split ({data.val_split}) and data.val_data_path ({data.val_data_path}) both give a validation set"
    for name in ("train", "val", "test"):
        if getattr(data, f"{name}_tgt_path") and not getattr(data, f"{name}_data_path"):
            yield f"data.{name}_tgt_path is set without data.{name}_data_path"
    if bool(data.src_suffix) != bool(data.tgt_suffix):
        yield f"data.src_suffix ({data.src_suffix}) and data.tgt_suffix ({data.tgt_suffix}) go together"
    if bool(data.src_column) != bool(data.tgt_column):
        yield f"data.src_column ({data.src_column}) and data.tgt_column ({data.tgt_column}) go together"
    if data.src_suffix and data.src_suffix == data.tgt_suffix:
        yield f"data.src_suffix and data.tgt_suffix are both {data.src_suffix!r}: the model would learn to copy"
    if data.src_column and data.src_column == data.tgt_column:
        yield f"data.src_column and data.tgt_column are both {data.src_column!r}: the model would learn to copy"
    if data.train_data_path and data.train_data_path == data.train_tgt_path:
        yield f"data.train_data_path and data.train_tgt_path are both {data.train_data_path!r}: the model would learn to copy"


def _training(config: "Config") -> Iterator[str]:
    training, scheduler, data = config.training, config.scheduler, config.data
    if training.max_steps and scheduler.warmup >= 1 and scheduler.warmup > training.max_steps:
        yield f"scheduler.warmup ({scheduler.warmup:g} steps) is longer than training.max_steps ({training.max_steps})"
    if scheduler.name == "wsd" and scheduler.warmup < 1 and scheduler.warmup + scheduler.decay > 1:
        yield f"scheduler.warmup ({scheduler.warmup:g}) and scheduler.decay ({scheduler.decay:g}) are more than all steps"
    if training.early_stopping_metric != "val_loss" and not training.eval_decode:
        yield (
            f"training.early_stopping_metric: {training.early_stopping_metric} needs translations; "
            "set training.eval_decode, as in training.eval_decode=500"
        )
    validated = data.val_data_path or data.val_split or not data.train_data_path
    if training.early_stopping_patience and not validated:
        yield (
            f"training.early_stopping_patience ({training.early_stopping_patience}) needs validation data; "
            "set data.val_data_path or data.val_split"
        )
    if training.average_checkpoints == 1:
        yield "training.average_checkpoints must be 0 or at least 2, got 1"
    if config.logging.wandb and not config.logging.wandb_project:
        yield "logging.wandb needs logging.wandb_project, got an empty name"
