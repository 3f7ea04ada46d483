"""Each rule between settings: what breaks it, what it says, and that what it allows passes."""

import ast
import inspect
import re

import pytest
from contradicting_settings import CASES, Changes

from pytorch_dl.config import Config
from pytorch_dl.config import contradictions as module
from pytorch_dl.config.contradictions import contradictions
from pytorch_dl.config.load import checked
from pytorch_dl.errors import ConfigError

ALLOWED: list[Changes] = [
    {"model": {"d_model": 96, "n_heads": 12}},
    {"model": {"d_model": 40, "positions": "learned"}},
    {"model": {"d_model": 15, "n_heads": 5, "positions": "learned"}},
    {"model": {"n_kv_heads": 8}},
    {"model": {"n_kv_heads": 1}},
    {"model": {"attention": "plain", "attention_dropout": 0.1}},
    {"model": {"attention": "auto", "attention_dropout": 0.1}},
    {"data": {"train_data_path": "a", "train_tgt_path": "b"}},
    {"data": {"src_suffix": "en", "tgt_suffix": "de"}},
    {"data": {"src_column": 1, "tgt_column": 2}},
    {"data": {"val_split": 100}},
    {"data": {"max_length": 512}},
    {"data": {"max_length": 200, "max_tokens_per_batch": 199, "use_dynamic_batching": False}},
    {"data": {"layout": "packed"}},
    {"data": {"max_tokens_per_batch": "auto"}, "training": {"tokens_per_step": 128}},
    {"data": {"shared_vocabulary": False}, "model": {"tie_embeddings": "decoder"}},
    {"data": {"tokenizer_name": "gpt2"}},
    {"data": {"tokenizer_name": "gpt2", "shared_vocabulary": False}, "model": {"tie_embeddings": "decoder"}},
    {"training": {"max_steps": 100}, "scheduler": {"warmup": 100}},
    {"training": {"max_steps": 100}, "scheduler": {"warmup": 0.5}},
    {"scheduler": {"name": "wsd", "warmup": 0.5, "decay": 0.5}},
    {"scheduler": {"name": "cosine", "warmup": 0.5, "decay": 0.6}},
    {"scheduler": {"name": "wsd", "warmup": 4000, "decay": 0.6}},
    {"training": {"early_stopping_metric": "bleu", "eval_decode": 100}},
    {"training": {"early_stopping_patience": 5}, "data": {"train_data_path": "a.tsv", "val_split": 9}},
    {"training": {"early_stopping_patience": 5}},
    {"training": {"eval_decode": 100}, "data": {"train_data_path": "a.tsv"}},
    {"training": {"early_stopping_patience": 3}, "data": {"corpora": [{"src": "a.tsv"}], "val_data_path": "v.tsv"}},
    {"training": {"average_checkpoints": 2}},
    {"logging": {"wandb": True}},
    {"logging": {"wandb_project": ""}},
]


@pytest.mark.parametrize(("changes", "line"), CASES, ids=[line[:60] for _, line in CASES])
def test_each_contradiction_is_told_with_its_values(changes: Changes, line: str) -> None:
    assert Config().update(**changes).problems() == [line]


@pytest.mark.parametrize("changes", ALLOWED, ids=str)
def test_what_does_not_contradict_passes(changes: Changes) -> None:
    config = Config().update(**changes)
    assert contradictions(config) == []
    assert checked(config) is config


def test_several_are_told_at_once() -> None:
    config = Config().update(
        model={"d_model": 100, "n_heads": 12, "n_kv_heads": 5},
        data={"max_length": 5000, "src_suffix": "en"},
        training={"average_checkpoints": 1},
    )
    expected = [
        "model.d_model (100) must be divisible by model.n_heads (12); nearest: 96 or 108",
        "model.n_heads (12) must be divisible by model.n_kv_heads (5)",
        "data.src_suffix (en) and data.tgt_suffix (None) go together",
        "data.max_length (5000) is above data.max_tokens_per_batch (4096)",
        "data.max_length (5000) is above model.max_seq_len (512)",
        "training.average_checkpoints must be 0 or at least 2, got 1",
    ]
    assert config.problems() == expected
    with pytest.raises(ConfigError) as error:
        checked(config, where="run.yaml")
    assert str(error.value) == f"run.yaml: {'; '.join(expected)}"
    assert error.value.exit_code == 2


def test_every_rule_of_the_source_is_tested() -> None:
    rules = [node.value for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Yield)]
    assert len(rules) >= 20
    untested = [ast.unparse(rule) for rule in rules if not any(fits(rule, line) for _, line in CASES)]
    assert not untested


def fits(rule: ast.expr | None, line: str) -> bool:
    """Whether a line is one of a rule's, whatever the values in it."""
    parts = rule.values if isinstance(rule, ast.JoinedStr) else [rule]
    texts = [re.escape(part.value) if isinstance(part, ast.Constant) else "(.+)" for part in parts]
    return re.fullmatch("".join(texts), line) is not None
