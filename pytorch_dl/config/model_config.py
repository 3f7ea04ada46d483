"""The configuration: every setting with its one default, and the templates. Imports no torch.

A `Config` has the sections model, data, training, optimizer, scheduler, system and logging. Settings are checked one by
one when they are assigned; `Config.problems` finds the contradictions between them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.config.units import parse_column, parse_count, parse_number, parse_seconds
from pytorch_dl.errors import ConfigError

Count = Annotated[int, BeforeValidator(parse_count), Field(ge=0)]  # reads 100k, 2m
Positive = Annotated[int, BeforeValidator(parse_count), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)]  # reads 90s, 45min, 2h
Number = Annotated[float, BeforeValidator(parse_number)]
PositiveNumber = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Probability = Annotated[Number, Field(ge=0, lt=1)]
Column = Annotated[str, BeforeValidator(parse_column)]


class Section(BaseModel):
    """A group of settings: unknown names are refused, and each assignment is checked."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(Section):
    """The shape of the Transformer; each field is an argument of `OptimizedTransformer`."""

    d_model: Positive = 512
    """Width of the residual stream."""
    n_heads: Positive = 8
    """Attention heads; each has d_model / n_heads features."""
    n_kv_heads: Positive | None = None
    """Key and value heads, a divisor of n_heads (grouped-query attention); as many as n_heads when left out."""
    num_encoder_layers: Positive = 6
    """Layers that read the source."""
    num_decoder_layers: Positive = 6
    """Layers that write the target."""
    d_ff: Positive | None = None
    """Width of the feed-forward layer, 4 * d_model when left out; gated activations take 2/3 of it."""
    dropout: Probability = 0.1
    """Share of features set to zero on embeddings, in the feed-forward layer and before each residual sum."""
    attention_dropout: Probability = 0.0
    """Share of attention weights set to zero; the fast attention kernels want 0."""
    max_seq_len: Positive = 512
    """Longest source or target, in tokens, that the model accepts."""
    activation: Literal["relu", "gelu", "swiglu", "geglu"] = "swiglu"
    """Nonlinearity of the feed-forward layer."""
    norm_type: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation of the residual stream."""
    norm_first: bool = True
    """Normalise before each sublayer (pre-norm) rather than after the sum (post-norm)."""
    positions: Literal["rope", "sinusoidal", "learned"] = "rope"
    """How a token's place is told: rotary (in attention), or added to the embedding."""
    bias: bool = False
    """Give the linear layers and LayerNorm a bias."""
    tie_embeddings: Literal["all", "decoder", "none"] = "all"
    """One matrix for source, target and output (all), for target and output (decoder), or three (none)."""
    use_checkpointing: bool = False
    """Recompute each layer in the backward pass rather than keep its activations."""
    activation_budget: Fraction = 1.0
    """Share of their activations that compiled layers may keep; below 1 what is cheapest is computed again."""
    pad_token_id: Count = 0
    """Padding id that `model(src, tgt)` looks for; a run sets it from its tokenizer."""
    attention: Literal["auto", "sdpa", "plain"] = "auto"
    """Attention kernel: torch's fused one, plain matrix products, or the faster of the two for the device."""


class CorpusConfig(Section):
    """One more training corpus."""

    src: str
    """File, prefix or hf:// id, as data.train_data_path."""
    tgt: str | None = None
    """Target file, when src holds the source side only."""
    weight: PositiveNumber = 1.0
    """How often each pair appears in an epoch; 0.5 takes another half each time."""
    src_suffix: str | None = None
    """With a prefix as src: ending of the source file; given, it and the next three stand in place of those of data."""
    tgt_suffix: str | None = None
    """Ending of the target file."""
    src_column: Column | None = None
    """Column or key of the source; its number in TSV."""
    tgt_column: Column | None = None
    """Column or key of the target."""


class DataConfig(Section):
    """Where the text pairs are and how they become batches."""

    train_data_path: str | None = None
    """Training text: source file (with train_tgt_path); TSV, CSV, JSONL or Parquet; prefix (with the suffixes); hf://ID."""
    train_tgt_path: str | None = None
    """Target file, line by line beside train_data_path."""
    val_data_path: str | None = None
    """Validation text, given as the training text is."""
    val_tgt_path: str | None = None
    """Target file of the validation text."""
    test_data_path: str | None = None
    """Test text, scored once at the end of `run`."""
    test_tgt_path: str | None = None
    """Target file of the test text."""
    src_suffix: str | None = None
    """With a path that is no file but a prefix: ending of the source file, as `en` in train.en or train.en.gz."""
    tgt_suffix: str | None = None
    """With a prefix as path: ending of the target file."""
    src_column: Column | None = None
    """Column or key of the source in CSV, JSONL, Parquet or hf:// data; in TSV, and only there, its number."""
    tgt_column: Column | None = None
    """Column or key of the target."""
    corpora: list[CorpusConfig] = Field(default_factory=list)
    """More training corpora, each with a weight."""
    val_split: Count = 0
    """Pairs to hold out of the training text for validation when there is no validation text."""
    on_blank: Literal["error", "drop"] = "error"
    """What to do with a pair that has a blank side."""
    tokenizer_name: str = "bpe"
    """bpe, unigram, char or byte, trained here; or the name or folder of a pretrained Hugging Face tokenizer."""
    vocab_size: Positive = 8000
    """Size of a vocabulary trained here."""
    shared_vocabulary: bool = True
    """One vocabulary for both sides rather than one for each; a folder with a tokenizer for each side needs false."""
    max_length: Positive = 128
    """Longest side of a pair in tokens, end mark included; longer pairs are left out and counted."""
    use_dynamic_batching: bool = True
    """Fill batches by tokens, as `layout` says, rather than take batch_size pairs at random."""
    max_tokens_per_batch: Positive | Literal["auto"] = 4096
    """Token positions of a batch on each side, padding included; auto: training.tokens_per_step in few batches."""
    layout: Literal["auto", "packed", "padded"] = "auto"
    """Several pairs to a row of one width (packed), or one to a row (padded); auto packs texts of up to 256 tokens."""
    num_workers: Count = 1
    """Threads that prepare batches ahead of the model; 0 prepares each when it is asked for."""
    prefetch_factor: Positive = 4
    """Batches that each worker keeps ready."""
    pin_memory: bool = True
    """Page-lock batches for a faster copy to a GPU; without one it does nothing."""
    cache_dir: str | None = None
    """Where prepared token stores lie: the run folder's `cache`, when left out."""


class TrainingConfig(Section):
    """How long and how the model is trained."""

    batch_size: Positive = 64
    """Pairs in a batch when data.use_dynamic_batching is off."""
    learning_rate: PositiveNumber = 1e-3
    """Highest learning rate of the schedule."""
    num_epochs: Positive = 10
    """Passes over the training text."""
    max_steps: Positive | None = None
    """Optimizer steps to train for, in place of num_epochs."""
    time_limit: Seconds | None = None
    """Wall time after which training ends cleanly at its best."""
    mixed_precision: bool | Literal["bf16", "fp16"] = True
    """Lower precision in matrix products: the fastest safe one of the device (true), none (false), or the one named."""
    gradient_accumulation_steps: Positive = 1
    """Batches whose gradients make one optimizer step."""
    tokens_per_step: Positive | None = None
    """With data.max_tokens_per_batch auto: positions of an optimizer step, in as few batches as fit into memory."""
    max_grad_norm: PositiveNumber | None = 1.0
    """Gradients are scaled down to this norm when it is exceeded."""
    undo_loss_spikes: Annotated[Number, Field(gt=1)] | None = None
    """Where a step's loss is so many times the usual, return to the last scheduled checkpoint, without its batches."""
    label_smoothing: Probability = 0.1
    """Probability mass of the target spread over the vocabulary."""
    ema_decay: Probability = 0.0
    """Decay of the moving average of the weights that is validated and used in their place; 0 keeps none."""
    average_checkpoints: Count = 0
    """Average the weights of so many last checkpoints at the end, and keep the average if it validates better."""
    eval_every: Positive | None = None
    """Steps between validations: one an epoch when left out."""
    eval_decode: Count = 0
    """Validation pairs to translate at each validation for BLEU, chrF and exact match; 0 translates none."""
    save_every: Positive | None = None
    """Steps between checkpoints beside the one at each validation."""
    save_in_background: bool = False
    """Train on while a copy of weights and optimizer in memory is written: for large models and slow disks."""
    keep_checkpoints: Annotated[Count, Field(ge=2)] = 2
    """Newest checkpoints to keep beside the best one."""
    early_stopping_patience: Count = 0
    """Validations without progress after which training ends; 0 never ends it."""
    early_stopping_metric: Literal["val_loss", "bleu", "chrf", "exact_match"] = "val_loss"
    """What tells the best checkpoint, and progress."""
    early_stopping_min_delta: Annotated[Number, Field(ge=0)] = 0.0
    """Smallest change of the metric that counts as progress, also of an average of checkpoints."""


class OptimizerConfig(Section):
    """The optimizer."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule."""
    beta1: Probability = 0.9
    """Decay of the mean of gradients; momentum of sgd."""
    beta2: Probability = 0.98
    """Decay of the mean of squared gradients."""
    eps: PositiveNumber = 1e-8
    """Added to the denominator of Adam's update."""
    weight_decay: Annotated[Number, Field(ge=0)] = 0.01
    """Decay of matrices; vectors (norms, biases) are never decayed."""


class SchedulerConfig(Section):
    """How the learning rate moves over the steps."""

    name: Literal["onecycle", "inverse_sqrt", "cosine", "wsd", "linear", "constant"] = "onecycle"
    """Shape of the schedule."""
    warmup: Annotated[float, BeforeValidator(parse_count), Field(ge=0)] = 0.1
    """Steps of rising learning rate; below 1 it is a share of all steps."""
    decay: Fraction = 0.2
    """Share of the steps over which warmup-stable-decay (wsd) falls."""
    final_factor: Fraction = 0.0
    """Learning rate at the end, as a share of the highest."""


class SystemConfig(Section):
    """Machine and reproducibility."""

    seed: Annotated[Count, Field(lt=2**63)] = 1
    """Order, dropout and initial weights are functions of it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: the GPU when there is one."""
    num_threads: Positive | None = None
    """CPU threads: one for each core when left out."""
    compile: bool | Literal["auto"] = "auto"
    """Compile each layer with torch.compile: half a minute, then faster steps; auto: where that pays in the end."""
    shard: bool = False
    """Divide weights, gradients and optimizer state among the processes: for models that do not fit on one device."""


class LoggingConfig(Section):
    """What is written down while training."""

    log_every: Positive = 50
    """Steps between lines of metrics."""
    log_dir: str | None = None
    """Folder of metrics.jsonl, timing.jsonl and TensorBoard's files, of one run at a time; left out: the run folder."""
    tensorboard: bool = True
    """Write TensorBoard files."""
    wandb: bool = False
    """Send metrics to Weights & Biases (extra: wandb)."""
    wandb_project: str = "pytorch-dl"
    """Project name at Weights & Biases."""


class Config(Section):
    """A whole run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    system: SystemConfig = Field(default_factory=SystemConfig)
    logging: LoggingConfig = Field(default_factory=LoggingConfig)

    def update(
        self,
        *,
        model: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        scheduler: dict[str, Any] | None = None,
        system: dict[str, Any] | None = None,
        logging: dict[str, Any] | None = None,
    ) -> Self:
        """Set some settings of some sections in place, all or none, and return the config."""
        from pytorch_dl.config.load import merged

        given = {
            "model": model,
            "data": data,
            "training": training,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "system": system,
            "logging": logging,
        }
        updated = merged(self, {name: settings for name, settings in given.items() if settings})
        for name in given:
            setattr(self, name, getattr(updated, name))
        return self

    def problems(self) -> list[str]:
        """List the contradictions between settings, each with the values and the way out."""
        from pytorch_dl.config.contradictions import contradictions

        return contradictions(self)


def get_config(name: str) -> Config:
    """Return the template `name` as a fresh config."""
    from pytorch_dl.config.load import merged, nearest

    if name not in TEMPLATES:
        raise ConfigError(f"unknown template {name!r}{nearest(name, TEMPLATES)}", fix=f"one of {', '.join(TEMPLATES)}")
    return merged(Config(), TEMPLATES[name])
