"""The arms of a comparison: each combination of the values that settings are to have, as a named configuration."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytorch_dl.config import Config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.config.units import parse_count, parse_seconds
from pytorch_dl.errors import ConfigError

EXAMPLE = "--vary model.activation=relu,swiglu"
TEXTS = {
    *("data.train_data_path", "data.train_tgt_path", "data.corpora", "data.on_blank"),
    *("data.src_suffix", "data.tgt_suffix", "data.src_column", "data.tgt_column"),
}
FIXED = {
    "system.seed": "each arm has the seeds 1, 2, ...: say how many with --seeds",
    "logging.log_dir": "each training writes into its own folder",
    "data.cache_dir": "the arms share what is prepared",
    **dict.fromkeys(
        ("data.val_data_path", "data.val_tgt_path", "data.test_data_path", "data.test_tgt_path", "data.val_split"),
        "all arms must be scored on the same text",
    ),
}
_OPEN, _CLOSE, _QUOTES = "[{", "]}", "'\""


@dataclass(frozen=True)
class Budget:
    """How much each training may take: so many seconds, target tokens or steps."""

    kind: Literal["time", "tokens", "steps"]
    amount: float


def grid(base: Config, vary: Sequence[str]) -> dict[str, Config]:
    """The arms by name, from words `section.key=value,value,...`; the first has the first value of each.

    Raises ConfigError for words that cannot be read, settings that there are not, values that do not fit, arms that
    are the same, and, all together, settings that contradict each other.
    """
    values = dict(map(_read, vary))
    if len(values) < len(vary):
        twice = [name for name, _ in map(_read, vary)]
        name = next(name for name in twice if twice.count(name) > 1)
        raise ConfigError(f"--vary {name} is given twice", fix="give all of its values in one word")
    for name in values:
        with_overrides(base, [f"{name}={values[name][0]}"])  # an unknown one is told as such
    names = _short(list(values))
    arms: dict[str, Config] = {}
    for choice in itertools.product(*values.values()):
        words = [f"{name}={value}" for name, value in zip(values, choice, strict=True)]
        label = " ".join(f"{names[name]}={value}" for name, value in zip(values, choice, strict=True))
        arms[label] = with_overrides(base, words)
    require_arms(arms)
    return arms


def require_arms(arms: Mapping[str, Config]) -> None:
    """Raise for fewer than two arms, what arms may not differ in, two that are the same, and all contradictions."""
    if len(arms) < 2:
        raise ConfigError(f"a comparison of {len(arms)} arm", fix=f"give two values or more, as in {EXAMPLE}")
    for name in (*FIXED, *TEXTS):
        section, _, key = name.partition(".")
        if len({repr(getattr(getattr(config, section), key)) for config in arms.values()}) == 1:
            continue
        if name in FIXED:
            raise ConfigError(f"arms may not differ in {name}: {FIXED[name]}", fix="leave it as it is")
        if any(config.data.val_split for config in arms.values()):
            raise ConfigError(
                f"arms that differ in {name} would hold out other pairs", fix="give --val-src in place of --split"
            )
    known: dict[str, str] = {}
    for name, config in arms.items():
        other = known.setdefault(config.model_dump_json(), name)
        if other != name:
            raise ConfigError(f"the arms {other!r} and {name!r} have the same settings", fix="leave one out")
    found: dict[str, list[str]] = {}
    for name, config in arms.items():
        for problem in config.problems():
            found.setdefault(problem, []).append(name)
    if found:
        told = (f"{problem} (in {_some(names, of=len(arms))})" for problem, names in found.items())
        raise ConfigError("; ".join(told), where="command line")


def parse_budget(text: str) -> Budget:
    """Read `5m` as a time, `2M tokens` and `2k steps` as what they say."""
    number, _, unit = text.strip().rpartition(" ")
    kinds: dict[str, Literal["tokens", "steps"]] = {"tokens": "tokens", "steps": "steps"}
    kind = kinds.get(unit.lower())
    try:
        amount = parse_count(number) if kind else parse_seconds(text)
        if not kind and text.strip()[-1:].isdigit():
            raise ValueError
    except ValueError:
        amount = None
    if not isinstance(amount, int | float) or amount <= 0 or (kind and amount < 1):
        raise ConfigError(
            f"--budget: expected a time such as 5m, or '2M tokens' or '2k steps', got {text!r}",
            fix="give each training the same with its unit",
        )
    return Budget(kind or "time", amount)


def factors(settings: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, str]]:
    """{setting: {arm: value}} of the settings in which arms differ, if the arms are all combinations of their values.

    Takes each arm's settings; where they are no whole grid of two settings or more, there is nothing: {}.
    """
    names = list(next(iter(settings.values())))
    varied = [name for name in names if len({repr(arm[name]) for arm in settings.values()}) > 1]
    levels = [len({repr(arm[name]) for arm in settings.values()}) for name in varied]
    size = 1
    for count in levels:
        size *= count
    distinct = {tuple(repr(arm[name]) for name in varied) for arm in settings.values()}
    if len(varied) < 2 or not size == len(distinct) == len(settings):
        return {}
    short = _short(varied)
    return {short[name]: {arm: str(values[name]) for arm, values in settings.items()} for name in varied}


def _read(word: str) -> tuple[str, list[str]]:
    """A word of --vary as the setting and its values."""
    name, equals, text = word.partition("=")
    if not equals:
        raise ConfigError(f"cannot read --vary {word!r}", fix=f"write section.key=value,value, as in {EXAMPLE}")
    values = _split(text)
    if "" in values:
        raise ConfigError(f"--vary {name}: a value is missing in {text!r}", fix=f"write values, as in {EXAMPLE}")
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"--vary {name}: {value} is given twice", fix="give each value once")
    return name, values


def _split(text: str) -> list[str]:
    """The parts between commas, but for those within brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            parts.append("")
            continue
        if quote or letter in _QUOTES:
            quote = "" if letter == quote else quote or (letter if not parts[-1].strip() or depth else "")
        else:
            depth += (letter in _OPEN) - (letter in _CLOSE)
        parts[-1] += letter
    return [part.strip() for part in parts]


def _short(names: Sequence[str]) -> dict[str, str]:
    """Each setting without its section, where no other has the same name."""
    keys = [name.rpartition(".")[2] for name in names]
    return {name: key if keys.count(key) == 1 else name for name, key in zip(names, keys, strict=True)}


def _some(names: Sequence[str], *, of: int) -> str:
    if len(names) == of:
        return "all arms"
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
