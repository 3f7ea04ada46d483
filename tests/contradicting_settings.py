"""Settings that break each rule between settings once, and the line that says so."""

from typing import Any

Changes = dict[str, dict[str, Any]]
CASES: list[tuple[Changes, str]] = [
    (
        {"model": {"d_model": 100, "n_heads": 12}},
        "model.d_model (100) must be divisible by model.n_heads (12); nearest: 96 or 108",
    ),
    ({"model": {"d_model": 3}}, "model.d_model (3) must be divisible by model.n_heads (8); nearest: 8"),
    (
        {"model": {"d_model": 40}},
        "model.positions: rope needs an even head width, got d_model / n_heads = 5",
    ),
    (
        {"model": {"d_model": 15, "n_heads": 5, "positions": "sinusoidal"}},
        "model.positions: sinusoidal needs an even model.d_model, got 15",
    ),
    ({"model": {"n_kv_heads": 3}}, "model.n_heads (8) must be divisible by model.n_kv_heads (3)"),
    ({"model": {"n_kv_heads": 16}}, "model.n_heads (8) must be divisible by model.n_kv_heads (16)"),
    (
        {"model": {"attention": "sdpa", "attention_dropout": 0.1}},
        "model.attention_dropout (0.1) needs model.attention: plain, got sdpa",
    ),
    *(
        ({"data": {f"{name}_tgt_path": "b"}}, f"data.{name}_tgt_path is set without data.{name}_data_path")
        for name in ("train", "val", "test")
    ),
    ({"data": {"src_suffix": "en"}}, "data.src_suffix (en) and data.tgt_suffix (None) go together"),
    ({"data": {"tgt_column": 2}}, "data.src_column (None) and data.tgt_column (2) go together"),
    (
        {"data": {"src_suffix": "en", "tgt_suffix": "en"}},
        "data.src_suffix and data.tgt_suffix are both 'en': the model would learn to copy",
    ),
    (
        {"data": {"src_column": "text", "tgt_column": "text"}},
        "data.src_column and data.tgt_column are both 'text': the model would learn to copy",
    ),
    (
        {"data": {"corpora": [{"src": "a", "tgt": "b"}, {"src": "c", "src_suffix": "en"}]}},
        "data.corpora.1.src_suffix (en) and data.corpora.1.tgt_suffix (None) go together",
    ),
    (
        {"data": {"corpora": [{"src": "a.csv", "src_column": "q", "tgt_column": "q"}]}},
        "data.corpora.0.src_column and data.corpora.0.tgt_column are both 'q': the model would learn to copy",
    ),
    (
        {"data": {"train_data_path": "a.txt", "train_tgt_path": "a.txt"}},
        "data.train_data_path and data.train_tgt_path are both 'a.txt': the model would learn to copy",
    ),
    (
        {"data": {"val_split": 100, "val_data_path": "v.tsv"}},
        "data.val_split (100) and data.val_data_path (v.tsv) both give a validation set",
    ),
    ({"data": {"max_length": 513}}, "data.max_length (513) is above model.max_seq_len (512)"),
    (
        {"data": {"max_length": 200, "max_tokens_per_batch": 199}},
        "data.max_length (200) is above data.max_tokens_per_batch (199)",
    ),
    (
        {"data": {"layout": "packed", "use_dynamic_batching": False}},
        "data.layout: packed fills rows by tokens and needs data.use_dynamic_batching: true, got false",
    ),
    (
        {
            "data": {"max_tokens_per_batch": "auto", "use_dynamic_batching": False},
            "training": {"tokens_per_step": 64000},
        },
        "data.max_tokens_per_batch: auto needs data.use_dynamic_batching: true, got false",
    ),
    (
        {"data": {"max_tokens_per_batch": 4096}, "training": {"tokens_per_step": "64k"}},
        "training.tokens_per_step (64000) needs data.max_tokens_per_batch: auto, got 4096",
    ),
    (
        {"data": {"max_tokens_per_batch": "auto"}, "training": {"tokens_per_step": None}},
        "data.max_tokens_per_batch: auto needs training.tokens_per_step, as in training.tokens_per_step=64k: "
        "else the memory of the machine would decide how large a step is",
    ),
    (
        {"data": {"max_tokens_per_batch": "auto"}, "training": {"tokens_per_step": 127}},
        "data.max_length (128) is above training.tokens_per_step (127)",
    ),
    (
        {
            "data": {"max_tokens_per_batch": "auto"},
            "training": {"tokens_per_step": 64000, "gradient_accumulation_steps": 4},
        },
        "training.gradient_accumulation_steps (4) is what data.max_tokens_per_batch: auto finds; leave it out",
    ),
    (
        {
            "data": {"max_tokens_per_batch": "auto"},
            "training": {"tokens_per_step": 64000},
            "system": {"shard": True},
        },
        "data.max_tokens_per_batch: auto tries the whole model in each process, but system.shard is true",
    ),
    (
        {"data": {"shared_vocabulary": False}},
        "model.tie_embeddings: all needs one vocabulary, but data.shared_vocabulary is false; use decoder or none",
    ),
    (
        {"training": {"max_steps": 100}, "scheduler": {"warmup": 101}},
        "scheduler.warmup (101 steps) is longer than training.max_steps (100)",
    ),
    (
        {"scheduler": {"name": "wsd", "warmup": 0.5, "decay": 0.6}},
        "scheduler.warmup (0.5) and scheduler.decay (0.6) are more than all steps",
    ),
    *(
        (
            {"training": {"early_stopping_metric": metric}},
            f"training.early_stopping_metric: {metric} needs translations; "
            "set training.eval_decode, as in training.eval_decode=500",
        )
        for metric in ("bleu", "chrf", "exact_match")
    ),
    (
        {"training": {"early_stopping_patience": 5}, "data": {"train_data_path": "a.tsv"}},
        "training.early_stopping_patience (5) needs validation data; set data.val_data_path or data.val_split",
    ),
    (
        {"training": {"early_stopping_patience": 3}, "data": {"corpora": [{"src": "a.tsv"}]}},
        "training.early_stopping_patience (3) needs validation data; set data.val_data_path or data.val_split",
    ),
    (
        {
            "training": {"early_stopping_metric": "bleu", "eval_decode": 100},
            "data": {"train_data_path": "a.tsv"},
        },
        "training.early_stopping_metric (bleu) needs validation data; set data.val_data_path or data.val_split",
    ),
    ({"training": {"average_checkpoints": 1}}, "training.average_checkpoints must be 0 or at least 2, got 1"),
    (
        {"logging": {"wandb": True, "wandb_project": ""}},
        "logging.wandb needs logging.wandb_project, got an empty name",
    ),
]
