"""Arms from words of the command line, budgets, and what is refused: one line each, that says how to mend it."""

import pytest

from pytorch_dl.config import Config, get_config
from pytorch_dl.errors import ConfigError
from pytorch_dl.experiments.arms import Budget, factors, grid, parse_budget, require_arms


def test_all_combinations_the_first_values_first():
    arms = grid(get_config("nano"), ["model.activation=relu,swiglu", "model.norm_type=layernorm,rmsnorm"])
    assert list(arms) == [f"activation={a} norm_type={n}" for a in ("relu", "swiglu") for n in ("layernorm", "rmsnorm")]
    shapes = [(config.model.activation, config.model.norm_type, config.model.d_model) for config in arms.values()]
    assert shapes == [
        ("relu", "layernorm", 128),
        ("relu", "rmsnorm", 128),
        ("swiglu", "layernorm", 128),
        ("swiglu", "rmsnorm", 128),
    ]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("training.learning_rate=1e-3,0.002", [0.001, 0.002]),
        ("model.n_kv_heads=null,2", [None, 2]),
        ("training.max_steps=500,2k", [500, 2000]),
        ("data.tokenizer_name=char,'a,b'", ["char", "a,b"]),
        ("data.corpora=[],[{src: a.tsv, weight: 2}]", [0, 1]),
    ],
)
def test_values_are_those_of_a_configuration(word, values):
    section, key = word.partition("=")[0].split(".")
    found = [getattr(getattr(config, section), key) for config in grid(Config(), [word]).values()]
    assert [len(value) if isinstance(value, list) else value for value in found] == values


def test_settings_of_one_name_keep_their_sections():
    arms = grid(Config(), ["optimizer.name=adamw,sgd", "scheduler.name=cosine,constant"])
    assert next(iter(arms)) == "optimizer.name=adamw scheduler.name=cosine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a comparison of 1 arm. Fix: give two values or more, as in --vary model.activation=relu,swiglu."),
        (["model.activation=relu"], "a comparison of 1 arm"),
        (["model.activation"], "cannot read --vary 'model.activation'. Fix: write section.key=value,value"),
        (["model.activaton=relu,gelu"], "unknown setting 'model.activaton', did you mean 'model.activation'?"),
        (["activation=relu,gelu"], "cannot read the setting 'activation', did you mean 'model.activation'?"),
        (["model.activation=relu,tanh"], "model.activation: expected one of relu, gelu, swiglu, geglu, got 'tanh'"),
        (["model.activation=relu,"], "--vary model.activation: a value is missing in 'relu,'"),
        (["model.activation=relu,gelu,relu"], "--vary model.activation: relu is given twice"),
        (["training.learning_rate=1e-3,0.001"], "arms 'learning_rate=1e-3' and 'learning_rate=0.001' have the same"),
        (["model.bias=true,false", "model.bias=false,true"], "--vary model.bias is given twice"),
        (["system.seed=1,2"], "arms may not differ in system.seed: each arm has the seeds 1, 2, ...: say how many"),
        (["data.val_data_path=a,b"], "arms may not differ in data.val_data_path: all arms must be scored on the same"),
        (["model.d_model=100,512"], "model.d_model (100) must be divisible by model.n_heads (8)"),
    ],
)  # fmt: skip
def test_what_cannot_be_arms(words, message):
    with pytest.raises(ConfigError) as raised:
        grid(Config(), words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_contradictions_of_all_arms_are_told_together():
    with pytest.raises(ConfigError) as raised:
        grid(Config(), ["model.n_heads=8,7,5", "model.n_kv_heads=8,3"])
    told = str(raised.value)
    assert "n_heads (7)" in told and "n_heads (5)" in told and "(in n_heads=7 n_kv_heads=8 and 1 more)" in told


def test_texts_may_differ_but_not_where_pairs_are_held_out_of_them():
    word = ["data.train_data_path=half.tsv,whole.tsv"]
    assert len(grid(Config(), word)) == 2
    with pytest.raises(ConfigError, match=r"would hold out other pairs.*Fix: give --val-src"):
        grid(Config().update(data={"val_split": 10}), word)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5m", Budget("time", 300)),
        ("90s", Budget("time", 90)),
        ("2M tokens", Budget("tokens", 2_000_000)),
        ("2k steps", Budget("steps", 2000)),
    ],
)
def test_budgets(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "5", "5x", "tokens", "0m", "0 steps", "2M words", "-3 steps", "0.5 steps"])
def test_what_is_no_budget(text):
    with pytest.raises(ConfigError, match="--budget: expected a time such as 5m, or '2M tokens'"):
        parse_budget(text)


def test_settings_of_a_whole_grid_are_factors():
    grid = {f"{a}{b}": {"x.a": a, "x.b": b, "x.c": 0} for a in "pq" for b in (1, 2)}
    assert factors(grid) == {
        "a": {"p1": "p", "p2": "p", "q1": "q", "q2": "q"},
        "b": {"p1": "1", "p2": "2", "q1": "1", "q2": "2"},
    }
    assert factors({name: grid[name] for name in ("p1", "p2", "q1")}) == {}, "one combination is missing"
    assert factors({name: grid[name] for name in ("p1", "p2")}) == {}, "one setting alone is told arm by arm"


def test_arms_given_in_python_are_looked_at_as_well():
    with pytest.raises(ConfigError, match="the arms 'a' and 'b' have the same settings"):
        require_arms({"a": Config(), "b": Config()})
