"""The recipes in configs/: each loads, its command exists and names its texts, and its figures are those measured."""

import gzip
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny_runs import ROOT, TINY, write_tsv

from benchmark import cmudict
from pytorch_dl.cli import app
from pytorch_dl.config import load_config, to_yaml
from pytorch_dl.config.load import read_config
from pytorch_dl.config.reader import read_file
from pytorch_dl.config.schema import json_schema
from scripts import make_scan

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
IDS = [path.stem for path in CONFIGS]
FACTS = ("Text", "Hardware", "Time", "Result")
RESULTS = ROOT / "benchmark" / "results"


def header(path: Path) -> str:
    """The comment above the settings."""
    return "\n".join(line[1:] for line in path.read_text("utf-8").partition("\nmodel:")[0].splitlines())


def commands(path: Path) -> list[list[str]]:
    """The commands of the header, in words."""
    lines = header(path).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip().startswith(("pytorch-dl ", "python "))]


def facts(path: Path) -> dict[str, str]:
    """What the header says of text, hardware, time, result."""
    return dict(re.findall(r"^ (\w+): +(.+)$", header(path), re.MULTILINE))


def test_there_are_recipes() -> None:
    assert {"multi30k", "multi30k-quick", "cmudict", "scan"} <= set(IDS)


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_each_loads(path: Path) -> None:
    config = load_config(path)
    assert config.problems() == []
    assert config.data.train_data_path is None  # the text is named by the command


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_each_says_what_to_expect(path: Path) -> None:
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=schema.json"
    assert all(facts(path).get(name) for name in FACTS)
    assert "TODO" not in header(path)


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_its_command_exists_and_names_training_validation_and_test_text(path: Path) -> None:
    runs = [words for words in commands(path) if words[0] == "pytorch-dl"]
    assert runs
    for words in runs:
        command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
        given = command.make_context("run", words[2:]).params
        assert words[1] == "run" and ROOT / given["config"] == path
        assert given["out"].parts[0] == "runs" and given["out"].name.startswith(path.stem)
        sides = [[given[f"{text}{side}"] for text in ("", "val_", "test_")] for side in ("src", "tgt")]
        assert all(sides[0])
        assert all(sides[1]) or all(".tsv" in name for name in sides[0])


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_the_scripts_that_it_names_exist(path: Path) -> None:
    named = [words[1] for words in commands(path) if words[0] == "python"]
    named += re.findall(r"python (\S+\.py)", facts(path).get("Measure", ""))
    assert named and all((ROOT / name).is_file() for name in named)


def test_the_figures_of_multi30k_are_those_of_its_result_file() -> None:
    found = json.loads((RESULTS / "multi30k.json").read_bytes())
    said = facts(ROOT / "configs" / "multi30k.yaml")
    assert said["Result"].startswith(f"{found['scores']['BLEU']:.1f} BLEU")
    assert said["Time"].startswith(f"{found['wall_seconds'] / 60:.0f} minutes")


def test_the_figures_of_the_quick_one_are_those_of_its_result_files() -> None:
    said = facts(ROOT / "configs" / "multi30k-quick.yaml")
    files = (RESULTS / f"time_to_quality{name}.json" for name in ("-longer", ""))
    whole, short = (json.loads(file.read_bytes())["ours"] for file in files)
    assert [f"{float(number):.1f}" for number in re.findall(r"(\d+\.\d)\b", said["Result"])] == [
        f"{whole['bleu']:.1f}",
        f"{short['bleu']:.1f}",
    ]
    assert [int(number) for number in re.findall(r"(\d+) minutes", said["Time"])] == [
        round(whole["seconds"] / 60),
        round(short["seconds"] / 60),
    ]


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_the_text_of_cmudict_is_what_its_recipe_says(name: str) -> None:
    folder = os.environ.get("PYTORCH_DL_DATA")
    if not folder or not (Path(folder) / "cmudict").is_dir():
        pytest.skip("PYTORCH_DL_DATA names no folder with cmudict")
    with gzip.open(Path(folder) / "cmudict" / f"{name}.tsv.gz", "rt", encoding="utf-8") as file:
        pairs = [line.rstrip("\n").split("\t") for line in file]
    assert len({word for word, _ in pairs}) == len(pairs)  # one pronunciation each
    assert all(re.fullmatch(r"[a-z']+", word) for word, _ in pairs)
    assert all(re.fullmatch(r"[A-Z]{1,2}[0-2]?", phoneme) for _, said in pairs for phoneme in said.split(" "))
    if name == "train":
        assert f"{len(pairs):,} words" in header(ROOT / "configs" / "cmudict.yaml")


class TestCmudict:
    def test_error_rates(self) -> None:
        references = ["AH0 B AE1 K", "K AE1 T", "D AO1 G", "Z UW1"]
        answers = ["AH0 B AE1 K", "K AE0 T", "D AA1 G Z", "Z UW1"]
        assert cmudict.error_rates(answers, references) == {
            "with_stress": {"word_error_rate": 50.0, "phoneme_error_rate": 25.0},  # 3 of 12
            "without_stress": {"word_error_rate": 25.0, "phoneme_error_rate": 16.67},
        }

    @pytest.mark.slow
    def test_the_recipe_runs_from_raw_text(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        for name, count, first in (("train", 200, 0), ("val", 20, 200), ("test", 20, 220)):
            text = write_tsv(tmp_path / f"{name}.tsv", count, first=first)
            (tmp_path / f"{name}.tsv.gz").write_bytes(gzip.compress(text.read_bytes()))
        words = ["--data", str(tmp_path), "--out", str(tmp_path / "found.json"), *TINY]
        monkeypatch.setattr(sys, "argv", ["cmudict.py", *words])
        cmudict.main()
        found = json.loads((tmp_path / "found.json").read_bytes())
        assert found["words"] == 20 and found["steps"] == 20 and found["moved_run_translates_alike"]
        assert found["with_stress"]["word_error_rate"] == round(100 - found["scores"]["exact match"], 2)
        assert found["with_stress"]["phoneme_error_rate"] == found["scores"]["token error rate"]


class TestScan:
    def test_what_commands_mean(self) -> None:
        """As the table of the paper has it, in our words."""
        found = {command: " ".join(does) for command, does in make_scan.commands()}
        expected = {
            "jump": "JUMP",
            "jump left": "LEFT JUMP",
            "jump around right": "RIGHT JUMP RIGHT JUMP RIGHT JUMP RIGHT JUMP",
            "turn left twice": "LEFT LEFT",
            "jump thrice": "JUMP JUMP JUMP",
            "jump opposite left and walk thrice": "LEFT LEFT JUMP WALK WALK WALK",
            "jump opposite left after walk around left": "LEFT WALK LEFT WALK LEFT WALK LEFT WALK LEFT LEFT JUMP",
            "turn around right": "RIGHT RIGHT RIGHT RIGHT",
            "turn opposite right": "RIGHT RIGHT",
        }
        assert {command: found[command] for command in expected} == expected
        assert len(found) == 20_910  # as many as SCAN has
        assert len(list(make_scan.commands())) == 20_910
        assert max(len(does.split()) for does in found.values()) == 48

    def test_the_splits(self, tmp_path: Path) -> None:
        make_scan.write(tmp_path)
        everything = {command for command, _ in make_scan.commands()}
        for name in ("random", "composition"):
            parts = {
                part: [line.split("\t")[0] for line in (tmp_path / name / f"{part}.tsv").read_text().splitlines()]
                for part in ("train", "val", "test")
            }
            assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == len(everything)
            assert len(parts["val"]) == 1000
            held_out = [make_scan.HELD_OUT in command for part in ("train", "val") for command in parts[part]]
            if name == "composition":
                assert not any(held_out) and all(make_scan.HELD_OUT in command for command in parts["test"])
                learnt = " ".join(parts["train"])
                assert "around left" in learnt and "opposite right" in learnt and "jump right" in learnt
            else:
                assert any(held_out) and len(parts["test"]) == 20_910 // 5

    def test_the_same_bytes_each_time(self, tmp_path: Path) -> None:
        for name in ("first", "second"):
            script = ROOT / "scripts" / "make_scan.py"
            environment = {**os.environ, "PYTHONHASHSEED": str(len(name))}
            subprocess.run([sys.executable, script, "--out", tmp_path / name], check=True, env=environment)
        first, second = (
            {path.relative_to(tmp_path / name): digest(path) for path in (tmp_path / name).rglob("*.tsv")}
            for name in ("first", "second")
        )
        assert first == second and len(first) == 6


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestSchema:
    def test_the_one_beside_the_recipes_is_that_of_the_settings(self) -> None:
        text = (ROOT / "configs" / "schema.json").read_text("utf-8")
        assert json.loads(text) == json_schema(), "run: pytorch-dl config schema > configs/schema.json"

    @pytest.mark.parametrize("path", CONFIGS, ids=IDS)
    def test_each_recipe_passes(self, path: Path) -> None:
        tree, _ = read_file(path)
        assert complaints(tree, json_schema()) == []

    def test_what_a_run_writes_passes(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text(to_yaml(load_config(CONFIGS[0])))
        tree, _ = read_file(tmp_path / "config.yaml")
        assert complaints(tree, json_schema()) == []

    @pytest.mark.parametrize(
        ("section", "key", "value", "passes"),
        [
            ("model", "d_model", 64, True),
            ("model", "d_model", 0, False),
            ("model", "d_model", "wide", False),
            ("model", "d_modle", 64, False),
            ("model", "activation", "gelu", True),
            ("model", "activation", "elu", False),
            ("model", "dropout", 0.5, True),
            ("model", "dropout", 1, False),
            ("model", "n_kv_heads", None, True),
            ("training", "max_steps", "100k", True),
            ("training", "max_steps", "1.5M", True),
            ("training", "max_steps", "100 miles", False),
            ("training", "keep_checkpoints", 1, False),
            ("training", "time_limit", "45min", True),
            ("training", "time_limit", "45 minutes", False),
            ("training", "mixed_precision", "bf16", True),
            ("data", "max_tokens_per_batch", "auto", True),
            ("data", "src_column", 1, True),
            ("data", "corpora", [{"src": "a.tsv", "weight": 0.5}], True),
            ("data", "corpora", [{"weight": 0.5}], False),
            ("scheduler", "warmup", 0.1, True),
            ("scheduler", "warmup", "4k", True),
        ],
    )
    def test_an_editor_complains_of_what_is_refused(
        self, section: str, key: str, value: object, passes: bool, tmp_path: Path
    ) -> None:
        tree = {section: {key: value}}
        assert (complaints(tree, json_schema()) == []) == passes
        (tmp_path / "config.json").write_text(json.dumps(tree))
        if passes:
            read_config(tmp_path / "config.json")


def complaints(value: Any, schema: dict[str, Any], *, root: dict[str, Any] | None = None, at: str = "") -> list[str]:
    """What an editor would mark: as much of JSON Schema as ours has in it."""
    root = root or schema
    known = {"$defs", "$ref", "type", "anyOf", "enum", "const", "properties", "required", "additionalProperties"}
    known |= {"items", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern"}
    assert set(schema) <= known | {"title", "description", "default"}, schema
    if "$ref" in schema:
        return complaints(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root=root, at=at)
    found: list[str] = []
    if "anyOf" in schema and all(complaints(value, one, root=root, at=at) for one in schema["anyOf"]):
        found.append(f"{at}: none of anyOf")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    types = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": number and value == int(value),
        "number": number,
        "null": value is None,
    }
    wrong = {
        "type": lambda wanted: not types[wanted],
        "enum": lambda wanted: value not in wanted,
        "const": lambda wanted: value != wanted,
        "minimum": lambda wanted: number and value < wanted,
        "maximum": lambda wanted: number and value > wanted,
        "exclusiveMinimum": lambda wanted: number and value <= wanted,
        "exclusiveMaximum": lambda wanted: number and value >= wanted,
        "pattern": lambda wanted: isinstance(value, str) and not re.search(wanted, value),
        "required": lambda wanted: isinstance(value, dict) and not set(wanted) <= set(value),
    }
    found += [f"{at}: {name} {schema[name]}" for name, test in wrong.items() if name in schema and test(schema[name])]
    if isinstance(value, dict):
        settings = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            found += [f"{at}: unknown {key}" for key in value if key not in settings]
        for key, inner in value.items():
            found += complaints(inner, settings[key], root=root, at=f"{at}.{key}") if key in settings else []
    for item in value if isinstance(value, list) else []:
        found += complaints(item, schema.get("items", {}), root=root, at=f"{at}[]")
    return found
