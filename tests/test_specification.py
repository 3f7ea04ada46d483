"""The founding specification: each of its snippets runs with nothing but the import root changed.

The snippets stand here as they stand there. What they take for granted (imports, texts, a tokenizer) is made around
them, and sizes are made small by settings alone.
"""

import ast
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import ROOT, TINY, call, pairs, records, write_tsv

from pytorch_dl.config import get_config, load_config
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer
from pytorch_dl.training.trainer import OptimizedTrainer, create_trainer

SMALL = {"d_model": 16, "n_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}

CONFIG_YAML = """
# config.yaml
model:
  d_model: 512
  n_heads: 8
  num_encoder_layers: 6
  num_decoder_layers: 6
  dropout: 0.1
  max_seq_len: 512
  
training:
  batch_size: 16
  learning_rate: 1e-4
  num_epochs: 10
  mixed_precision: true
  gradient_accumulation_steps: 1
  
data:
  train_data_path: "./data/train.txt"
  val_data_path: "./data/val.txt"
  tokenizer_name: "gpt2"
  max_length: 128
"""

TRAINING = """
from examples.optimized_training import main
main()  # Starts training with default configuration
"""

BASIC_TRAINING = """
from pytorch_dl.config.model_config import get_config
from pytorch_dl.training.trainer import create_trainer

# Get predefined configuration
config = get_config('base')
config.data.train_data_path = "./data/train.txt"
config.data.val_data_path = "./data/val.txt"
MADE_SMALL
# Setup data and model
data_module = DataModule(
    train_data_path=config.data.train_data_path,
    val_data_path=config.data.val_data_path,
    tokenizer_name=config.data.tokenizer_name,
    batch_size=config.training.batch_size,
    max_length=config.data.max_length
)
data_module.setup()

# Create model and trainer
model = OptimizedTransformer(
    src_vocab_size=32000,
    tgt_vocab_size=32000,
    **config.model.__dict__
)

trainer = create_trainer(
    model=model,
    train_dataloader=data_module.train_dataloader(),
    val_dataloader=data_module.val_dataloader(),
    config=config
)

trainer.train(num_epochs=config.training.num_epochs)
"""

CUSTOM_LOOP = """
from pytorch_dl.training.trainer import OptimizedTrainer

trainer = OptimizedTrainer(
    model=model,
    train_dataloader=train_loader,
    val_dataloader=val_loader,
    optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4),
    mixed_precision=True,
    gradient_accumulation_steps=2,
    log_dir="./logs",
    checkpoint_dir="./checkpoints"
)

trainer.train(num_epochs=10)
"""

CHECKPOINTING = """
model = OptimizedTransformer(
    ..., 
    use_checkpointing=True  # Reduces memory by ~50%
)
"""

DYNAMIC_BATCHING = """
data_module = DataModule(
    ..., 
    use_dynamic_batching=True,
    max_tokens_per_batch=8192  # Memory-based batching
)
"""

MIXED_PRECISION = """
trainer = OptimizedTrainer(
    ..., 
    mixed_precision=True  # 2x faster training on modern GPUs
)
"""

CUSTOM_COMPONENT = """
from pytorch_dl.models.transformer_blocks import TransformerEncoderLayer

class CustomEncoderLayer(TransformerEncoderLayer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Add custom modifications
"""

WANDB = """
config.logging.wandb = True
config.logging.wandb_project = "my-transformer-project"
"""

TEMPLATES = """
from pytorch_dl.config.model_config import get_config

# Predefined configurations
small_config = get_config('small')   # 256M parameters
base_config = get_config('base')     # 512M parameters  
large_config = get_config('large')   # 1B+ parameters
"""

AB_TESTING = """
# Compare different configurations
configs = [
    {'activation': 'relu', 'norm_type': 'layernorm'},
    {'activation': 'swiglu', 'norm_type': 'rmsnorm'},
    {'activation': 'gelu', 'norm_type': 'layernorm'}
]

for config_dict in configs:
    config.update(model=config_dict)
    # Run training...
"""

Names = dict[str, Any]


def run(snippet: str, names: Names | None = None, *, dots: str = "") -> Names:
    """Run a snippet, with `dots` in the place of its three dots; return its names."""
    names = {"torch": torch, "DataModule": DataModule, "OptimizedTransformer": OptimizedTransformer, **(names or {})}
    exec(compile(snippet.replace("...,", f"{dots},"), "specification", "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the specification's reader: ./data and a tokenizer called gpt2."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tsv(tmp_path / "data/train.txt")
    write_tsv(tmp_path / "data/val.txt", 9, first=60)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<|endoftext|>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator([text for pair in pairs(60) for text in pair], trainer)
    end = "<|endoftext|>"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=end, eos_token=end, unk_token=end)
    fast.save_pretrained("gpt2")
    return tmp_path


@pytest.fixture
def model() -> OptimizedTransformer:
    torch.manual_seed(1)
    return OptimizedTransformer(src_vocab_size=20, tgt_vocab_size=20, max_seq_len=16, **SMALL)


def loaders() -> tuple[torch.utils.data.DataLoader, torch.utils.data.DataLoader]:
    """Plain loaders of torch: padded (src, tgt), where tgt begins with 1 and ends with 2."""
    generator = torch.Generator().manual_seed(1)
    items = []
    for length in (3, 4, 5, 6) * 4:
        text = torch.randint(3, 20, (length,), generator=generator)
        padding = torch.zeros(6 - length, dtype=torch.long)
        src = torch.cat([text, torch.tensor([2]), padding])
        tgt = torch.cat([torch.tensor([1]), text.flip(0), torch.tensor([2]), padding])
        items.append((src, tgt))
    return torch.utils.data.DataLoader(items[:12], batch_size=4), torch.utils.data.DataLoader(items[12:], batch_size=4)


def test_configuration_file(folder, capsys):
    Path("config.yaml").write_text(CONFIG_YAML)
    config = load_config("config.yaml")
    assert (config.model.d_model, config.model.num_decoder_layers, config.model.max_seq_len) == (512, 6, 512)
    assert (config.training.batch_size, config.training.learning_rate, config.training.num_epochs) == (16, 1e-4, 10)
    assert (config.training.mixed_precision, config.data.tokenizer_name) == (True, "gpt2")
    small = [word for word in TINY if not word.startswith("data.tokenizer_name")]
    result = call(capsys, "train", "config.yaml", "--out", "run", *small, "training.max_steps=2", "scheduler.warmup=1")
    assert result.code == 0, result.err
    lines = ("ab cd", "ab cd ef gh ij kl")
    together = call(capsys, "translate", "run", "-t", lines[0], "-t", lines[1])
    alone = [call(capsys, "translate", "run", "-t", line).out for line in lines]
    assert (together.code, together.out) == (0, "".join(alone))  # the padding of this tokenizer is not token 0


def test_training(folder, capsys, monkeypatch):
    from examples import optimized_training

    monkeypatch.setattr(optimized_training, "dates_file", lambda part: f"data/{part}.txt")
    run(TRAINING)
    left = Path("runs/optimized_training")
    assert {record["kind"] for record in records(left)} >= {"epoch", "validation"}
    assert list((left / "checkpoints").iterdir())
    assert capsys.readouterr().out.count("  ->  ") == len(optimized_training.LINES)


def test_basic_training(folder):
    small = f"config.update(model={SMALL}, training={{'num_epochs': 2}}, data={{'tokenizer_name': 'gpt2'}})"
    names = run(BASIC_TRAINING.replace("MADE_SMALL", small))
    assert names["trainer"].state.epoch == 2
    assert names["model"].output.weight.shape == (32000, 16)
    assert names["data_module"].tokenizers.src.decode(names["data_module"].tokenizers.src.encode("ab cd")) == "ab cd"
    assert [record["step"] for record in records(Path()) if record["kind"] == "validation"] == [1, 2]
    assert len(list(Path("checkpoints").glob("step-*"))) == 2


def test_custom_training_loop(folder, model):
    train_loader, val_loader = loaders()
    names = run(CUSTOM_LOOP, {"model": model, "train_loader": train_loader, "val_loader": val_loader})
    state = names["trainer"].state
    assert (state.epoch, state.step) == (10, 20)  # 3 batches an epoch, 2 a step
    assert state.best_value is not None
    losses = [record["nll"] for record in records(Path("logs")) if record["kind"] == "epoch"]
    assert losses[-1] < losses[0]
    assert list(Path("logs/tensorboard").glob("events.*"))
    assert list(Path("checkpoints").glob("step-*"))


def test_our_own_loader_in_a_custom_training_loop(folder):
    data_module = DataModule("./data/train.txt", "./data/val.txt", tokenizer_name="char", max_length=40)
    data_module.setup()
    src_vocab_size, tgt_vocab_size = data_module.vocab_sizes
    model = OptimizedTransformer(src_vocab_size=src_vocab_size, tgt_vocab_size=tgt_vocab_size, **SMALL)
    loader, val_loader = data_module.train_dataloader(), data_module.val_dataloader()
    names = run(CUSTOM_LOOP, {"model": model, "train_loader": loader, "val_loader": val_loader})
    assert names["trainer"].state.epoch == 10


def test_gradient_checkpointing(model):
    names = run(CHECKPOINTING, {"small": SMALL}, dots="src_vocab_size=20, tgt_vocab_size=20, dropout=0.0, **small")
    names["model"].load_state_dict(model.state_dict())
    src, tgt = torch.randint(1, 20, (2, 3, 5))
    grown = []
    for each in (names["model"].train(), model.eval()):
        logits = each(src, tgt)
        assert logits.shape == (3, 5, 20)
        logits.logsumexp(-1).sum().backward()
        grown.append([parameter.grad for parameter in each.parameters()])
    for ours, expected in zip(*grown, strict=True):
        torch.testing.assert_close(ours, expected)


def test_dynamic_batching(folder):
    names = run(DYNAMIC_BATCHING, dots="train_data_path='./data/train.txt', tokenizer_name='char'")
    names["data_module"].setup()
    batches = list(names["data_module"].train_dataloader())
    assert sum((batch.pair_ids >= 0).sum().item() for batch in batches) == 60
    assert all(max(batch.src.numel(), batch.tgt_in.numel()) <= 8192 for batch in batches)
    assert names["data_module"].val_dataloader() is None


def test_mixed_precision(model):
    train_loader, _ = loaders()
    names = {"OptimizedTrainer": OptimizedTrainer, "model": model, "loader": train_loader}
    names = run(MIXED_PRECISION, names, dots="model=model, train_dataloader=loader")
    assert names["trainer"].train(num_epochs=1).precision in ("bf16", "fp16" if torch.cuda.is_available() else "fp32")
    scaled = OptimizedTrainer(model, train_loader, mixed_precision="fp16")
    assert scaled.train(num_epochs=1).step == 3
    assert scaled.update.scaler.is_enabled()


def test_custom_components():
    names = run(CUSTOM_COMPONENT)
    made = []

    class OwnDecoderLayer(TransformerDecoderLayer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    layers = {"encoder_layer": names["CustomEncoderLayer"], "decoder_layer": OwnDecoderLayer}
    model = OptimizedTransformer(src_vocab_size=20, tgt_vocab_size=20, **SMALL, **layers)
    assert isinstance(model.encoder_layers[0], names["CustomEncoderLayer"])
    assert list(model.decoder_layers) == made
    train_loader, _ = loaders()
    assert OptimizedTrainer(model, train_loader).train(num_epochs=1).step == 3


def test_weights_and_biases(folder, model, monkeypatch):
    seen: list[Any] = []
    tracker = types.SimpleNamespace(log=lambda values, step: seen.append(values), finish=lambda: None, summary={})
    stub = types.SimpleNamespace(__spec__="found", init=lambda **options: seen.append(options) or tracker)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    config = run(WANDB, {"config": get_config("nano")})["config"]
    config.logging.tensorboard = False
    config.update(logging={"log_every": 1}, training={"num_epochs": 1})
    train_loader, val_loader = loaders()
    create_trainer(model=model, train_dataloader=train_loader, val_dataloader=val_loader, config=config).train()
    assert seen[0]["project"] == "my-transformer-project"
    curves = {name for values in seen[1:] for name in values}
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "validation/val_loss"} <= curves
    assert {"validation/val_ppl", "system/tokens_per_second", "system/peak_rss_mb"} <= curves


def test_tensorboard_has_every_metric(folder, model):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = get_config("nano")
    config.update(logging={"log_every": 1, "log_dir": "./logs"}, training={"num_epochs": 1})
    train_loader, val_loader = loaders()
    create_trainer(model=model, train_dataloader=train_loader, val_dataloader=val_loader, config=config).train()
    events = EventAccumulator("logs/tensorboard")
    events.Reload()
    curves = set(events.Tags()["scalars"])
    assert {"train/loss", "validation/val_loss", "train/learning_rate", "train/grad_norm"} <= curves
    assert {"validation/val_ppl", "system/tokens_per_second", "system/peak_rss_mb"} <= curves
    assert ("system/gpu_memory_mb" in curves) == torch.cuda.is_available()


def test_configuration_templates():
    names = run(TEMPLATES)
    widths = [names[f"{size}_config"].model.d_model for size in ("small", "base", "large")]
    assert widths == sorted(widths)  # tests/models/test_sizes.py counts the parameters
    assert all(names[f"{size}_config"].problems() == [] for size in ("small", "base", "large"))


def test_ab_testing(folder):
    def run_training(config: Any) -> float:
        torch.manual_seed(1)
        model = OptimizedTransformer(src_vocab_size=20, tgt_vocab_size=20, **config.model.__dict__)
        train_loader, val_loader = loaders()
        return OptimizedTrainer(model, train_loader, val_loader).train(num_epochs=1).best_value

    losses: list[float] = []
    config = get_config("base").update(model=SMALL)
    snippet = AB_TESTING.replace("# Run training...", "losses.append(run_training(config))")
    names = run(snippet, {"config": config, "losses": losses, "run_training": run_training})
    assert len(set(losses)) == len(names["configs"]) == 3
    assert (config.model.activation, config.model.norm_type, config.model.d_model) == ("gelu", "layernorm", 16)


def test_names_and_arguments_of_the_modules():
    import inspect

    from pytorch_dl.models import attention, optimized_transformer, transformer_blocks

    assert inspect.isclass(attention.MultiHeadAttention)
    assert inspect.isclass(transformer_blocks.TransformerEncoderLayer)
    assert inspect.isclass(optimized_transformer.OptimizedTransformer)
    wanted: dict[Callable[..., Any], set[str]] = {
        DataModule: {"train_data_path", "val_data_path", "tokenizer_name", "batch_size", "max_length"}
        | {"use_dynamic_batching", "max_tokens_per_batch"},
        OptimizedTrainer: {"model", "train_dataloader", "val_dataloader", "optimizer", "mixed_precision"}
        | {"gradient_accumulation_steps", "log_dir", "checkpoint_dir"},
        OptimizedTrainer.train: {"num_epochs"},
        create_trainer: {"model", "train_dataloader", "val_dataloader", "config"},
        OptimizedTransformer: {
            "src_vocab_size",
            "tgt_vocab_size",
            "use_checkpointing",
            *get_config("base").model.__dict__,
        },
    }
    for thing, names in wanted.items():
        assert names <= inspect.signature(thing).parameters.keys(), thing
    assert {"num_workers", "prefetch_factor", "pin_memory"} <= get_config("base").data.__dict__.keys()


# Where each promise is tested: file, test.
PROMISES = {
    "benchmark: the four claims and their plots": ("test_benchmark.py", None),
    "attention: one projection of queries, keys and values": (
        "models/test_attention.py",
        "test_one_product_makes_queries_keys_and_values",
    ),
    "attention: self and cross": ("models/test_attention.py", "test_each_kernel_is_the_definition"),
    "blocks: pre-norm and post-norm": ("models/test_transformer_blocks.py", "test_the_encoder_layer_is_that_of_torch"),
    "blocks: activations and norms": ("models/test_transformer_blocks.py", "test_each_variant_reaches_every_parameter"),
    "blocks: own layers": ("test_specification.py", "test_custom_components"),
    "model: of torch": ("models/test_optimized_transformer.py", "test_the_whole_model_is_that_of_torch"),
    "model: checkpointing": ("models/test_optimized_transformer.py", "test_checkpointing_changes_no_gradient"),
    "data module": ("test_specification.py", "test_basic_training"),
    "data: dynamic batching": ("test_specification.py", "test_dynamic_batching"),
    "data: cached preprocessing": ("dataset/test_token_store.py", None),
    "trainer: own objects": ("test_specification.py", "test_custom_training_loop"),
    "trainer: from a config": ("test_specification.py", "test_basic_training"),
    "config: YAML and JSON both ways": ("config/test_load.py", "test_templates_come_back_equal"),
    "config: update": ("config/test_model_config.py", "test_update_changes_what_is_named_in_place"),
    "config: 256M, 512M and 1B+ parameters": ("models/test_sizes.py", "test_templates_have_the_promised_sizes"),
    "example": ("test_specification.py", "test_training"),
    "training: mixed precision": ("test_specification.py", "test_mixed_precision"),
    "training: OneCycleLR with warm-up": ("training/test_schedule.py", None),
    "training: early stopping": ("test_no_dead_keys.py", "test_each_setting_changes_something"),
    "training: TensorBoard and all metrics": ("test_specification.py", "test_tensorboard_has_every_metric"),
    "training: Weights & Biases": ("test_specification.py", "test_weights_and_biases"),
    "experiments: templates": ("test_specification.py", "test_configuration_templates"),
    "experiments: A/B": ("test_specification.py", "test_ab_testing"),
    "experiments: significance": ("experiments/test_compare.py", None),
    "experiments: settings compared over seeds": ("comparing/test_comparison.py", None),
}


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_has_its_test(promise):
    file, name = PROMISES[promise]
    tree = ast.parse((ROOT / "tests" / file).read_text())
    tests = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert name in tests if name else tests
