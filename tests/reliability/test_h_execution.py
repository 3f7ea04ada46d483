"""Nothing in a file is executed: no pickle, no code of its own, whatever its name, and no reader that would."""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from audited_life import VARIANTS
from hostile_files import bombs, careless, sign
from test_layers import EXCEPTIONS, ROOT, sources, wrong_doings
from tiny_runs import call, copied_run, environment

import pytorch_dl
from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import MANIFEST


def test_h1_a_whole_life_under_an_audit_hook(case, tmp_path):
    """Train, stop, resume, translate, evaluate, verify, replay and export, once all modules are loaded."""
    lives = case.size(1, len(VARIANTS))
    command = [sys.executable, ROOT / "tests" / "audited_life.py", tmp_path, str(lives)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    noted = json.loads((tmp_path / "noted.json").read_bytes())
    assert noted["codes"] == [[0] * len(noted["codes"][0])] * (1 + lives), done.stderr
    assert noted["events"]["open"] > 100
    assert noted["forbidden"] == []
    assert noted["foreign"] == []
    assert [told.partition(" ")[0] for told in noted["trial"]] == ["pickle.find_class", "compile", "exec"]
    commands = lives * len(noted["codes"][0])
    case.survived(commands, injected="commands from training to export under an audit hook", lost="nothing executed")


@dataclass(frozen=True)
class Place:
    """Files in which a bomb lies, the command that reads them, its exit code, and what it says."""

    files: str
    command: str
    code: int = 4
    says: str = ""
    unfinished: bool = False
    loads: bool = True  # whether `load` reads it too


TRANSLATE, RESUME = "translate done -t ab", "resume done"
UNREADABLE, DAMAGED = "not a readable safetensors file", "this tokenizer folder is damaged"
PLACES = [
    Place("done/model/model.safetensors", TRANSLATE, says=UNREADABLE),
    Place("done/model/manifest.json", TRANSLATE, says="manifest.json cannot be read"),
    Place("done/checkpoints/*/model.safetensors", RESUME, says=UNREADABLE, unfinished=True),
    Place("done/checkpoints/*/optimizer.safetensors", RESUME, says=UNREADABLE, unfinished=True, loads=False),
    Place("done/checkpoints/*/average.safetensors", TRANSLATE, says=UNREADABLE, unfinished=True),
    Place("done/checkpoints/*/state.json", RESUME, says="state.json: cannot be read", unfinished=True),
    Place("done/checkpoints/*/manifest.json", RESUME, says="none of the 2 checkpoints is whole", unfinished=True),
    Place("done/tokenizer/tokenizer.json", TRANSLATE, says="tokenizer"),
    Place("done/tokenizer/tokenizer_meta.json", TRANSLATE, says=DAMAGED),
    Place("done/tokenizer/manifest.json", TRANSLATE, says=DAMAGED),
    Place("done/config.yaml", TRANSLATE, says="config.yaml"),
    Place("done/data.json", RESUME, says="data.json: cannot be read", unfinished=True, loads=False),
    Place("done/evaluation.json", RESUME, says="expected a beam_size", unfinished=True, loads=False),
    Place("done/cache/*/meta.json", RESUME, 0, "building it anew", unfinished=True, loads=False),
    Place("done/cache/*/src_ids", RESUME, 0, "building it anew", unfinished=True, loads=False),
    Place("settings.yaml", "train settings.yaml", 2, "settings.yaml", loads=False),
    Place("settings.json", "train settings.json", 2, "settings.json", loads=False),
    Place("text.pkl", "check --src text.pkl", 3, "text.pkl", loads=False),
    Place("text.jsonl", "check --src text.jsonl", 3, "text.jsonl", loads=False),
    Place("text.parquet", "check --src text.parquet", 3, "Parquet", loads=False),
    # Names of other programs, which nothing reads:
    Place("done/model/pytorch_model.bin", TRANSLATE, 0, loads=False),
    Place("done/checkpoints/rng_state.pth", RESUME, 0, unfinished=True, loads=False),
    Place("done/cache/text_cache.pkl", RESUME, 0, unfinished=True, loads=False),
]


def plant(place: Place, bomb: bytes, folder: Path) -> None:
    """Put the bomb into each of the place's files, with right checksums."""
    if place.unfinished:
        shutil.rmtree(folder / "done/model")
    above, _, name = place.files.rpartition("/")
    for where in [path for path in folder.glob(above) if path.is_dir()] if above else [folder]:
        (where / name).write_bytes(bomb)
        if (where / MANIFEST).exists() and name != MANIFEST:
            sign(where)


def test_h2_bombs_under_each_of_our_names(case, tiny_run, tmp_path, capsys, monkeypatch):
    """By the command line and by `load`: each is refused, or left alone, and none goes off."""
    mark, number = tmp_path / "went off", 0
    kinds = list(bombs(mark).items())
    each = case.size(2, len(kinds))
    for number, (place, (kind, bomb)) in enumerate(
        ((place, kinds[(2 * row + turn) % len(kinds)]) for row, place in enumerate(PLACES) for turn in range(each)), 1
    ):
        folder = tmp_path / str(number)
        copied_run(tiny_run, folder)
        plant(place, bomb, folder)
        monkeypatch.chdir(folder)
        if place.loads:
            with pytest.raises(CheckpointError):
                pytorch_dl.load("done")
        result = call(capsys, *place.command.split())
        told = "".join(result.error_lines) if place.code else result.err
        assert (result.code, place.says in told) == (place.code, True), f"{place.files}, {kind}: {result}"
        assert "Traceback" not in result.err
        assert not mark.exists(), f"{place.files}, {kind}"
        shutil.rmtree(folder)
    assert number == each * len(PLACES) >= 40
    case.survived(number, injected="a pickle under each name that we read", lost="none went off")


def test_h2_the_bombs_are_live(tmp_path):
    for kind, bomb in bombs(tmp_path / "mark").items():
        careless(kind, bomb)
        (tmp_path / "mark").rmdir()


SNIPPETS = [
    "import pickle",
    "from dill import loads",
    "import joblib as added",
    "import shelve",
    "import torch\ntorch.load('x', weights_only=True)",
    "from torch import load as added\nadded('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "eval(text)",
    "exec(text)",
    "compile(text, 'x', 'exec')",
    "__import__(name)",
    "import importlib\nimportlib.import_module(name)",
    "from importlib import import_module\nimport_module(name)",
    "import importlib.util as added\nadded.spec_from_file_location('x', path)",
    "import runpy\nrunpy.run_path(path)",
    "import os\nos.system(text)",
    "import subprocess\nsubprocess.run(text, shell=True)",
    "import yaml\nyaml.load(text, yaml.FullLoader)",
    "import yaml\nyaml.unsafe_load(text)",
    "import torch.distributed as dist\ndist.all_gather_object(found, own)",
    "from torch.distributed import broadcast_object_list as added\nadded(found)",
    "added('x', trust_remote_code=True)",
]


def test_h7_readers_that_would_execute_are_not_in_the_source(case):
    """The gate that each source file passes finds each of them, wherever it is written."""
    excepted = {file for file, _ in EXCEPTIONS}
    files = [path for path in sources() if path.relative_to(ROOT).as_posix() not in excepted]
    found = 0
    for path in random.Random(7).sample(files, case.size(4, len(files))):
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        assert wrong_doings(text, name) == []
        for snippet in SNIPPETS:
            function = (
                f"\n\ndef more(text, name, path, found, own):\n    {snippet.replace(chr(10), f'{chr(10)}    ')}\n"
            )
            assert len(wrong_doings(text + function, name)) == 1, (name, snippet)
            found += 1
    case.survived(found, injected="a call that reads pickle or runs text, into a source file", lost="all were found")


def test_h7_each_exception_is_needed_and_has_a_reason():
    for (name, _), reason in EXCEPTIONS.items():
        assert len(reason) > 20
        text = (ROOT / name).read_text()
        assert wrong_doings(text, name) == []
        assert wrong_doings(text, "another file")
