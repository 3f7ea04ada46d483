"""The rules between settings: each is a condition that may not hold, and a line that says so with the values."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_dl.config.model_config import Config, CorpusConfig, DataConfig


def contradictions(config: "Config") -> list[str]:
    """Return one line for each contradiction, none for a sound config."""
    return [
        *_model(config),
        *data_contradictions(config.data),
        *_model_and_data(config),
        *_division(config),
        *_training(config),
    ]


def data_contradictions(data: "DataConfig") -> list[str]:
    """Those of the section data alone."""
    return [*_text(data), *_batches(data)]


def _model(config: "Config") -> Iterator[str]:
    model = config.model
    head_dim, rest = divmod(model.d_model, model.n_heads)
    if rest:
        above = model.d_model - rest + model.n_heads
        below = f"{model.d_model - rest} or " if model.d_model > model.n_heads else ""
        yield (
            f"model.d_model ({model.d_model}) must be divisible by model.n_heads ({model.n_heads}); "
            f"nearest: {below}{above}"
        )
    elif model.positions == "rope" and head_dim % 2:
        yield f"model.positions: rope needs an even head width, got d_model / n_heads = {head_dim}"
    if model.positions == "sinusoidal" and model.d_model % 2:
        yield f"model.positions: sinusoidal needs an even model.d_model, got {model.d_model}"
    if model.n_kv_heads and model.n_heads % model.n_kv_heads:
        yield f"model.n_heads ({model.n_heads}) must be divisible by model.n_kv_heads ({model.n_kv_heads})"
    if model.attention_dropout and model.attention == "sdpa":
        yield f"model.attention_dropout ({model.attention_dropout}) needs model.attention: plain, got sdpa"


def _text(data: "DataConfig") -> Iterator[str]:
    for name in ("train", "val", "test"):
        if getattr(data, f"{name}_tgt_path") and not getattr(data, f"{name}_data_path"):
            yield f"data.{name}_tgt_path is set without data.{name}_data_path"
    yield from _sides(data, "data")
    for number, corpus in enumerate(data.corpora):
        yield from _sides(corpus, f"data.corpora.{number}")
    if data.train_data_path and data.train_data_path == data.train_tgt_path:
        path = data.train_data_path
        yield f"data.train_data_path and data.train_tgt_path are both {path!r}: the model would learn to copy"
    if data.val_split and data.val_data_path:
        split, path = data.val_split, data.val_data_path
        yield f"data.val_split ({split}) and data.val_data_path ({path}) both give a validation set"


def _sides(text: "DataConfig | CorpusConfig", name: str) -> Iterator[str]:
    for kind, src, tgt in (("suffix", text.src_suffix, text.tgt_suffix), ("column", text.src_column, text.tgt_column)):
        if bool(src) != bool(tgt):
            yield f"{name}.src_{kind} ({src}) and {name}.tgt_{kind} ({tgt}) go together"
        elif src and src == tgt:
            yield f"{name}.src_{kind} and {name}.tgt_{kind} are both {src!r}: the model would learn to copy"


def _batches(data: "DataConfig") -> Iterator[str]:
    most = data.max_tokens_per_batch
    if data.use_dynamic_batching and most != "auto" and data.max_length > most:
        yield f"data.max_length ({data.max_length}) is above data.max_tokens_per_batch ({most})"
    if most == "auto" and not data.use_dynamic_batching:
        yield "data.max_tokens_per_batch: auto needs data.use_dynamic_batching: true, got false"
    if data.layout == "packed" and not data.use_dynamic_batching:
        yield "data.layout: packed fills rows by tokens and needs data.use_dynamic_batching: true, got false"


def _model_and_data(config: "Config") -> Iterator[str]:
    data, model = config.data, config.model
    if data.max_length > model.max_seq_len:
        yield f"data.max_length ({data.max_length}) is above model.max_seq_len ({model.max_seq_len})"
    if not data.shared_vocabulary and model.tie_embeddings == "all":
        yield "model.tie_embeddings: all needs one vocabulary, but data.shared_vocabulary is false; use decoder or none"


def _division(config: "Config") -> Iterator[str]:
    """How a step is divided into batches is either given or found."""
    data, training = config.data, config.training
    tokens, batches = training.tokens_per_step, training.gradient_accumulation_steps
    if data.max_tokens_per_batch != "auto":
        if tokens:
            yield (
                f"training.tokens_per_step ({tokens}) needs data.max_tokens_per_batch: auto, "
                f"got {data.max_tokens_per_batch}"
            )
        return
    if not tokens:
        yield (
            "data.max_tokens_per_batch: auto needs training.tokens_per_step, as in training.tokens_per_step=64k: "
            "else the memory of the machine would decide how large a step is"
        )
    elif data.max_length > tokens:
        yield f"data.max_length ({data.max_length}) is above training.tokens_per_step ({tokens})"
    if batches > 1:
        yield (
            f"training.gradient_accumulation_steps ({batches}) is what data.max_tokens_per_batch: auto finds; "
            "leave it out"
        )
    if config.system.shard:
        yield "data.max_tokens_per_batch: auto tries the whole model in each process, but system.shard is true"


def _training(config: "Config") -> Iterator[str]:
    training, scheduler, data = config.training, config.scheduler, config.data
    warmup, decay, metric = scheduler.warmup, scheduler.decay, training.early_stopping_metric
    if training.max_steps and warmup >= 1 and warmup > training.max_steps:
        yield f"scheduler.warmup ({warmup:g} steps) is longer than training.max_steps ({training.max_steps})"
    if scheduler.name == "wsd" and warmup < 1 and warmup + decay > 1:
        yield f"scheduler.warmup ({warmup:g}) and scheduler.decay ({decay:g}) are more than all steps"
    if metric != "val_loss" and not training.eval_decode:
        yield (
            f"training.early_stopping_metric: {metric} needs translations; "
            "set training.eval_decode, as in training.eval_decode=500"
        )
    trained, validated = data.train_data_path or data.corpora, data.val_data_path or data.val_split
    if trained and not validated:  # eval_decode alone is no contradiction: templates have it
        needs_validation = "needs validation data; set data.val_data_path or data.val_split"
        if training.early_stopping_patience:
            yield f"training.early_stopping_patience ({training.early_stopping_patience}) {needs_validation}"
        if metric != "val_loss":
            yield f"training.early_stopping_metric ({metric}) {needs_validation}"
    if training.average_checkpoints == 1:
        yield "training.average_checkpoints must be 0 or at least 2, got 1"
    if config.logging.wandb and not config.logging.wandb_project:
        yield "logging.wandb needs logging.wandb_project, got an empty name"
