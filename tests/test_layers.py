"""The layers of the design, and what no file may do, read from the source.

Imports point down only, and folders of one layer do not import each other:

    L4  entry __main__ cli options arguments failures commands evaluating translating exporting serving resumable run
        validating changes prepare weights_from demo verifying replaying reporting doctor estimation comparing lightning
        benchmark examples scripts
    L3  translator above evaluation experiments export building
    L2  training generation scoring
    L1  models dataset
    L0  config files data, without torch, and below them plain_files, errors and process
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "pytorch_dl"
LAYERS = [
    {"errors", "process"},
    {"plain_files"},
    {"config", "files", "data"},
    {"models", "dataset"},
    {"training", "generation", "scoring"},
    {"evaluation", "experiments", "export", "building"},
    {"translator"},
    {
        *("entry", "__main__", "cli", "options", "arguments", "failures", "commands", "translating", "evaluating"),
        *("exporting", "serving", "run", "changes", "prepare", "demo", "verifying", "replaying", "doctor", "resumable"),
        *("validating", "weights_from", "lightning"),
        *("reporting", "estimation", "comparing", "benchmark", "examples", "scripts"),
    },
]
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}
TOP = len(LAYERS) - 1
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "torch.load": "reads pickle",
    "torch.save": "writes pickle",
    "torch.serialization.load": "reads pickle",
    "torch.jit.load": "runs a program",
    "torch.hub.load": "runs a program",
    "pandas.read_pickle": "reads pickle",
    "compile": "makes code of text",
    "__import__": "imports by name",
    "importlib.import_module": "imports by name",
    "importlib.util.spec_from_file_location": "imports a file",
    "runpy.run_path": "runs a file",
    "runpy.run_module": "imports by name",
    "os.system": "runs text in a shell",
    "os.popen": "runs text in a shell",
    **{f"yaml.{name}load{all_}": "builds objects" for name in ("", "full_", "unsafe_") for all_ in ("", "_all")},
    **{
        f"torch.distributed.{name}": "reads pickle of another process"
        for name in (
            *("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"),
            *("send_object_list", "recv_object_list"),
        )
    },
}
REQUIRED = {"allow_pickle": False, "weights_only": True, "shell": False, "trust_remote_code": False}
# (file, call): why it may
EXCEPTIONS = {
    ("pytorch_dl/__init__.py", "importlib.import_module"): "the names stand in a table of the same file",
}


def sources() -> list[Path]:
    folders = (PACKAGE, "benchmark", "examples", "scripts")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def part_of(module: str) -> str | None:
    """The folder or file that a dotted module name belongs to and that has a layer; None for other packages."""
    first, _, rest = module.partition(".")
    if first == PACKAGE:
        return rest.partition(".")[0] or PACKAGE
    return first if first in ("benchmark", "examples", "scripts") else None


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Each imported name in full with its line, also of imports inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def wrong_imports(text: str, module: str) -> list[str]:
    """Imports that point up or sideways."""
    here = part_of(module)
    found = []
    for line, name in imports(ast.parse(text), module):
        there = part_of(name)
        if there is None or there == here or here == PACKAGE or (there not in LEVEL and there != PACKAGE):
            continue
        below = there in LEVEL and LEVEL[there] < LEVEL[str(here)]
        if not below and LEVEL[str(here)] != TOP:
            found.append(f"line {line}: {here} may not import {there}")
    return found


def wrong_doings(text: str, path: str) -> list[str]:
    """Code that runs text, or reads or writes pickle."""
    tree = ast.parse(text)
    found = []
    names: dict[str, str] = {}  # what a local name stands for: `from torch import load as read`
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for line, name in imports(tree, "module"):
        if name.partition(".")[0] in PICKLERS:
            found.append(f"line {line}: imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            called = names.get(first, first) + dot + rest
            if called in FORBIDDEN_CALLS and (path, called) not in EXCEPTIONS:
                found.append(f"line {node.lineno}: {called} {FORBIDDEN_CALLS[called]}")
        if isinstance(node, ast.keyword) and node.arg in REQUIRED:
            safe = REQUIRED[node.arg]
            if not (isinstance(node.value, ast.Constant) and node.value.value is safe):
                found.append(f"line {node.value.lineno}: {node.arg} must be {safe}")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down_and_nothing_runs_text_or_pickle(path: Path) -> None:
    module, text = module_of(path), path.read_text()
    part = part_of(module)
    assert part in LEVEL or part == PACKAGE, f"{path} has no layer: add it to LAYERS"
    assert wrong_imports(text, module) == []
    assert wrong_doings(text, path.relative_to(ROOT).as_posix()) == []


def test_the_ground_floor_imports_no_torch() -> None:
    floor = [path for path in sources() if LEVEL.get(str(part_of(module_of(path))), TOP) <= LEVEL["files"]]
    assert len(floor) >= 8
    for path in floor:
        roots = {name.partition(".")[0] for _, name in imports(ast.parse(path.read_text()), module_of(path))}
        assert not roots & {"torch", "numpy", "transformers", "tokenizers"}, path


def test_the_ground_floor_loads_no_torch() -> None:
    modules = f"{PACKAGE}.config, {PACKAGE}.config.contradictions, {PACKAGE}.errors, {PACKAGE}.files"
    code = f"import sys, {modules}; print('torch' in sys.modules, '{PACKAGE}.config.load' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_there_is_something_to_check() -> None:
    files = sources()
    edges = {
        (part_of(module_of(path)), part_of(name))
        for path in files
        for _, name in imports(ast.parse(path.read_text()), module_of(path))
        if part_of(name)
    }
    assert len(files) >= 25
    assert {("config", "errors"), ("models", "models"), ("config", "config"), ("benchmark", "files")} <= edges
    assert all((ROOT / PACKAGE / folder).is_dir() for layer in LAYERS[2:5] for folder in layer - {"files"})


@pytest.mark.parametrize(
    ("text", "module", "count"),
    [
        ("from pytorch_dl.training.loss import loss", "pytorch_dl.models.attention", 1),
        ("import pytorch_dl.training.loss", "pytorch_dl.models.attention", 1),
        ("from pytorch_dl import training", "pytorch_dl.models.attention", 1),
        ("from ..training import loss", "pytorch_dl.models.attention", 1),
        ("from pytorch_dl.dataset import batching", "pytorch_dl.models.attention", 1),
        ("def f():\n    from pytorch_dl.cli import main", "pytorch_dl.export.writer", 1),
        ("from pytorch_dl.evaluation import report", "pytorch_dl.export.writer", 1),
        ("from pytorch_dl.config import Config", "pytorch_dl.errors", 1),
        ("from pytorch_dl.files import sha256", "pytorch_dl.config.load", 1),
        ("import benchmark.benchmark", "pytorch_dl.training.trainer", 1),
        ("from pytorch_dl.translator import Translator", "pytorch_dl.evaluation.report", 1),
        ("from pytorch_dl.models import attention", "pytorch_dl.models.positions", 0),
        ("from .kv_cache import KeyValue", "pytorch_dl.models.attention", 0),
        ("from pytorch_dl.errors import DataError", "pytorch_dl.config.load", 0),
        ("from pytorch_dl.run import run", "pytorch_dl.cli", 0),
        ("from pytorch_dl.training.trainer import OptimizedTrainer", "benchmark.benchmark", 0),
        ("import torch, training", "pytorch_dl.models.attention", 0),
    ],
)
def test_wrong_imports_are_found(text: str, module: str, count: int) -> None:
    assert len(wrong_imports(text, module)) == count


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import dill as d",
        "import torch\ntorch.load('x')",
        "import torch as t\nt.load('x', weights_only=True)",
        "from torch import load\nload('x')",
        "from torch import load as read\nread('x')",
        "import torch\ntorch.save({}, 'x')",
        "eval('1')",
        "exec('1')",
        "import yaml\nyaml.load(text, yaml.SafeLoader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "import yaml\nyaml.full_load_all(text)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "read('x', weights_only=False)",
    ],
)
def test_wrong_doings_are_found(text: str) -> None:
    assert len(wrong_doings(text, "pytorch_dl/training/checkpoint.py")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "import yaml\nyaml.safe_load(text)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "from safetensors.torch import load\nload(b'')",
        "'torch.load(x)'",
    ],
)
def test_harmless_code_is_left_alone(text: str) -> None:
    assert wrong_doings(text, "pytorch_dl/training/checkpoint.py") == []
