"""Configurations: what is written is meant, or refused with its place before a text is read; nothing in them is run."""

import json
import os
import random
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from changing_settings import CHANGES, leaves, look, write_texts
from contradicting_settings import CASES
from tiny_runs import ROOT, call

from pytorch_dl.config import Config, load_config
from pytorch_dl.config.model_config import CorpusConfig
from pytorch_dl.errors import ConfigError

SECTIONS = tuple(Config.model_fields)
KEYS = {key for name in SECTIONS for key in type(getattr(Config(), name)).model_fields} | {*CorpusConfig.model_fields}
LETTERS = string.ascii_lowercase + "_"
SECONDS, MEGABYTES = 1.0, 200  # of a process that refuses a configuration

NUMBER, COUNT, SWITCH, WORD = "training.learning_rate", "data.vocab_size", "logging.tensorboard", "data.cache_dir"
NO = object()  # refused

# What a word stands for where a number, a count, a switch and a text are expected: YAML 1.2, and units of counts.
SCALARS: list[tuple[str, object, object, object, object]] = [
    ("1e-4", 1e-4, NO, NO, NO),
    ("1E-4", 1e-4, NO, NO, NO),
    ("1.0e-4", 1e-4, NO, NO, NO),
    ("1e+2", 100.0, 100, NO, NO),
    ("1e3", 1000.0, 1000, NO, NO),
    ("5", 5.0, 5, NO, NO),
    ("+5", 5.0, 5, NO, NO),
    ("-5", NO, NO, NO, NO),
    ("010", 10.0, 10, NO, NO),
    ("0o10", 8.0, 8, NO, NO),
    ("0x10", 16.0, 16, NO, NO),
    ("0b11", NO, NO, NO, "0b11"),
    ("1.", 1.0, 1, True, NO),
    (".5", 0.5, NO, NO, NO),
    ("5.0", 5.0, 5, NO, NO),
    ("5.5", 5.5, NO, NO, NO),
    ("0", NO, NO, False, NO),
    ("1", 1.0, 1, True, NO),
    ("2", 2.0, 2, NO, NO),
    ("1_000", 1000.0, 1000, NO, "1_000"),
    ("1,000", NO, NO, NO, "1,000"),
    ("100k", NO, 100_000, NO, "100k"),
    ("2m", NO, 2_000_000, NO, "2m"),
    ("12:30", NO, NO, NO, "12:30"),
    ("190:20:30", NO, NO, NO, "190:20:30"),
    ("2024-01-02", NO, NO, NO, "2024-01-02"),
    ("1.2.3", NO, NO, NO, "1.2.3"),
    ("1e", NO, NO, NO, "1e"),
    ("e5", NO, NO, NO, "e5"),
    (".inf", NO, NO, NO, NO),
    ("-.inf", NO, NO, NO, NO),
    (".Inf", NO, NO, NO, NO),
    ("inf", NO, NO, NO, "inf"),
    (".nan", NO, NO, NO, NO),
    (".NaN", NO, NO, NO, NO),
    ("nan", NO, NO, NO, "nan"),
    ("null", NO, NO, NO, None),
    ("~", NO, NO, NO, None),
    ("", NO, NO, NO, None),
    ("nULL", NO, NO, NO, "nULL"),
    ("none", NO, NO, NO, "none"),
    ("true", NO, NO, True, NO),
    ("True", NO, NO, True, NO),
    ("FALSE", NO, NO, False, NO),
    ("yes", NO, NO, True, "yes"),
    ("no", NO, NO, False, "no"),
    ("No", NO, NO, False, "No"),
    ("NO", NO, NO, False, "NO"),
    ("on", NO, NO, True, "on"),
    ("off", NO, NO, False, "off"),
    ("y", NO, NO, True, "y"),
    ("n", NO, NO, False, "n"),
    ("maybe", NO, NO, NO, "maybe"),
    ('"8"', 8.0, 8, NO, "8"),
    ("'1e-4'", 1e-4, NO, NO, "1e-4"),
    ('"no"', NO, NO, False, "no"),
    ('""', NO, NO, NO, ""),
    ("[5]", NO, NO, NO, NO),
    ("{a: 5}", NO, NO, NO, NO),
    ("a # b", NO, NO, NO, "a"),
    ("a #b: c", NO, NO, NO, "a"),
    ("a: b", NO, NO, NO, NO),
    ("\tb: 2", NO, NO, NO, NO),
    ("5\n  {key}: 6", NO, NO, NO, NO),
    ("@a", NO, NO, NO, NO),
    ("&a 5", NO, NO, NO, NO),
    ("!!int 5", NO, NO, NO, NO),
    ("٣", NO, NO, NO, "٣"),
]


def test_b1_a_misspelt_setting(case, tmp_path, capsys):
    """Each setting and each section by one letter: the line, and the name that was meant."""
    rng, times, path = random.Random(1), 0, tmp_path / "c.yaml"
    for leaf in sorted(leaves(Config) | {*SECTIONS}):
        *above, key = leaf.split(".")
        siblings = siblings_of(above)
        for _ in range(case.size(1, 20)):
            typo = rng.choice(sorted(one_edit(key) - KEYS - {*SECTIONS}))
            before = "# a comment\n" * rng.randrange(4)
            text, line = below(above, f"{typo}: 1")
            path.write_text(before + text)
            result = call(capsys, "train", path)
            assert result.code == 2, result
            (told,) = result.error_lines
            prefix = ".".join(["data.corpora.0"] if len(above) == 2 else above)
            unknown = f"{prefix}.{typo}" if prefix else typo
            meant = {f"{prefix}.{name}" if prefix else name for name in siblings if typo in one_edit(name)}
            where = f"pytorch-dl: error: {path}:{before.count('#') + line}: unknown setting {unknown!r}"
            assert told in {f"{where}, did you mean {name!r}?" for name in meant}, told
            times += 1
    assert times >= len(CHANGES)
    case.survived(times, injected="each setting and section with one letter wrong", lost="nothing: line and right name")


def siblings_of(above: list[str]) -> tuple[str, ...]:
    """The names beside a setting, which a slip may lead to as well."""
    if not above:
        return SECTIONS
    section = CorpusConfig if len(above) == 2 else type(getattr(Config(), above[0]))
    return tuple(section.model_fields)


def below(above: list[str], text: str) -> tuple[str, int]:
    """A setting of a section, or of the first corpus, as YAML; and the line that it is in."""
    if len(above) == 2:
        return f"data:\n  corpora:\n  - {text}\n", 3
    return (f"{above[0]}:\n  {text}\n", 2) if above else (f"{text}\n", 1)


def one_edit(word: str) -> set[str]:
    """All words that differ by a letter too few, too many or wrong, or by two that changed places."""
    parts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    dropped = {head + tail[1:] for head, tail in parts if tail}
    wrong = {head + letter + tail[1:] for head, tail in parts if tail for letter in LETTERS}
    added = {head + letter + tail for head, tail in parts for letter in LETTERS}
    swapped = {head + tail[1] + tail[0] + tail[2:] for head, tail in parts if len(tail) > 1}
    return {found for found in dropped | wrong | added | swapped if found} - {word}


def test_b2_what_a_word_stands_for(case, tmp_path):
    """In YAML, block and flow, where a number, a count, a switch and a text are expected."""
    path, times = tmp_path / "c.yaml", 0
    for word, *expected in SCALARS:
        for name, value in zip((NUMBER, COUNT, SWITCH, WORD), expected, strict=True):
            section, key = name.split(".")
            path.write_text(f"{section}:\n  {key}: {word.replace('{key}', key)}\n")
            times += 1
            if value is NO:
                with pytest.raises(ConfigError) as error:
                    load_config(path)
                assert error.value.exit_code == 2
                assert str(error.value).startswith((f"{path}:2", f"{path}:3")), error.value
            else:
                found = getattr(getattr(load_config(path), section), key)
                assert found == value, (name, word)
                assert type(found) is type(value), (name, word)
    assert len(SCALARS) >= 60
    case.survived(times, injected="words that YAML 1.1, 1.2 and people read differently", lost="none: meant or refused")


def test_b3_settings_that_contradict(case, tmp_path, capsys):
    """Each rule alone, and several at once: all are told, before it is seen that no text is there."""
    rng, path, times = random.Random(3), tmp_path / "c.yaml", 0
    chosen = [[one] for one in rng.sample(CASES, case.size(6, len(CASES)))]
    chosen += [several(rng) for _ in range(case.size(6, 200))]
    assert len(CASES) >= 25
    for cases in chosen:
        changes = {section: values for one, _ in cases for section, values in one.items()}
        path.write_text(json.dumps(changes))
        begun = time.process_time()
        result = call(capsys, "train", path, "--out", tmp_path / "new")
        assert time.process_time() - begun < SECONDS
        assert result.code == 2, result
        (told,) = result.error_lines
        assert told.startswith(f"pytorch-dl: error: {path}: ")
        for _, line in cases:
            assert line in told
        assert not (tmp_path / "new").exists()
        times += 1
    case.survived(times, injected="each contradiction of settings alone, and up to four at once", lost="none is untold")


def several(rng: random.Random) -> list[tuple[dict[str, dict[str, Any]], str]]:
    """Contradictions that have no section in common."""
    chosen: list[tuple[dict[str, dict[str, Any]], str]] = []
    for changes, line in rng.sample(CASES, len(CASES)):
        if not any(changes.keys() & others.keys() for others, _ in chosen):
            chosen.append((changes, line))
    return chosen


def test_b4_each_setting_does_something(case, tmp_path, monkeypatch):
    """Changed alone, from a base in which it is active, it changes what the model, the data or the run do."""
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = write_texts(folder)
    assert leaves(Config) == CHANGES.keys()
    chosen = random.Random(4).sample(sorted(CHANGES), case.size(3, len(CHANGES)))
    for leaf in chosen:
        base, value, observe, part = CHANGES[leaf]
        setting = "data.corpora" if leaf.startswith("data.corpora") else leaf
        before = look(observe, base, texts, folder.with_name(f"{leaf}.base"), monkeypatch)
        after = look(observe, {**base, setting: value}, texts, folder.with_name(f"{leaf}.changed"), monkeypatch)
        assert before[part] != after[part], f"{leaf} is dead"
    case.survived(len(chosen), injected="each setting changed alone", lost="no setting is dead")


MEASURED = """
import sys, time
from pathlib import Path
from pytorch_dl.entry import execute
code = execute(sys.argv[1:])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(code, time.process_time(), peak.split()[1])
"""


def bombs() -> Iterator[tuple[str, str]]:
    """Files that would take all memory or time, or run a program; and what is said of them."""
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    yield laughs, "1: anchors and aliases are not read"
    yield "[" * 10_000, "1: nested deeper than 20 levels"
    yield "".join(f"{' ' * depth}a:\n" for depth in range(1300)), "21: nested deeper than 20 levels"
    yield "{a: " * 10_000, "1: nested deeper than 20 levels"
    yield "#" * 100_000_000, " the file has 100,000,000 bytes, over the limit of 1,048,576"
    yield f"[{'1,' * 500_000}]", "1: more than 20,000 values and keys"
    yield "model: !!python/object/apply:os.system ['touch exploded']", "1: the tag tag:yaml.org,2002:python/object"
    yield "!!python/object/new:subprocess.Popen [[touch, exploded]]", "1: the tag tag:yaml.org,2002:python/object"
    yield (
        f"model: {{d_model: {'9' * 100_000}}}",
        "1: model.d_model: a number of 100,000 characters is over the limit of 100",
    )


def test_b5_configurations_from_strangers(case, tmp_path):
    """Refused within a second and little memory, in a process of its own."""
    names = ("c.yaml", "c.json")[: case.size(1, 2)]
    times, slowest, largest = 0, 0.0, 0
    for text, what in bombs():
        for name in names:
            (tmp_path / name).write_text(text)
            done = subprocess.run(
                [sys.executable, "-c", MEASURED, "train", name],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.stderr.startswith(f"pytorch-dl: error: {name}:{what}"), done.stderr[:300]
            assert done.stderr.count("\n") == 1
            code, seconds, kilobytes = done.stdout.split()
            assert code == "2"
            times += 1
            slowest, largest = max(slowest, float(seconds)), max(largest, int(kilobytes) // 1000)
    assert slowest < SECONDS
    assert largest < MEGABYTES
    assert not (tmp_path / "exploded").exists()
    lost = f"nothing: at most {slowest:.1f} s and {largest} MB"
    case.survived(times, injected="alias bombs, depth, 100 MB, Python tags", lost=lost)
