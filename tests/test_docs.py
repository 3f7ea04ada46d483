"""README and docs: their Python runs, and their commands, options and settings exist."""

import itertools
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from tiny_runs import ROOT, write_tsv

from benchmark import readme
from pytorch_dl.cli import app
from pytorch_dl.config import Config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.experiments.arms import grid

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?P<mark><!-- not run\b.*?-->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
REDIRECTIONS = ("|", "<", ">", "&&", "&")
SETTING = re.compile(r"[a-z]+\.[a-z_]+=")


class Block(NamedTuple):
    """A fenced block of a page; `skipped` when the page says so above it."""

    place: str
    kind: str
    text: str
    skipped: bool


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            f"{page.name}:{text[: found.start('kind')].count(chr(10)) + 1}",
            found["kind"],
            found["text"],
            bool(found["mark"]),
        )
        for found in BLOCK.finditer(text)
    ]


def commands(text: str) -> list[list[str]]:
    """The pytorch-dl commands of a shell block, in words."""
    lines = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    cut = (list(itertools.takewhile(lambda word: word not in REDIRECTIONS, words)) for words in lines)
    return [words[1:] for words in cut if words and words[0] == "pytorch-dl"]


BLOCKS = [block for page in PAGES if page.exists() for block in blocks(page)]
PYTHON = [pytest.param(block, id=block.place) for block in BLOCKS if block.kind == "python" and not block.skipped]
SHELL = [
    pytest.param(words, id=f"{block.place}: {' '.join(words)}")
    for block in BLOCKS
    if block.kind in ("bash", "sh", "shell", "console")
    for words in commands(block.text)
]


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(block: Block, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tsv(tmp_path / "pairs.tsv", 200)
    shutil.copytree(tiny_run, tmp_path / "runs/mine")
    exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("words", SHELL)
def test_commands_and_settings_exist(words: list[str]):
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands
        command, words = command.commands[words[0]], words[1:]
    if "--help" not in words:
        command.make_context("pytorch-dl", list(words))
    varied = [word for before, word in itertools.pairwise(words) if before == "--vary"]
    if varied:
        grid(Config(), varied)
    with_overrides(Config(), [word for word in words if SETTING.match(word) and word not in varied])


def test_there_is_something_to_run():
    assert PYTHON
    assert SHELL


def test_blocks_are_found_as_they_are_marked(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("a\n```python\nx = 1\n```\n<!-- not run: slow -->\n```python\ny\n```\n```bash\nls\n```\n")
    assert blocks(page) == [
        ("page.md:2", "python", "x = 1\n", False),
        ("page.md:6", "python", "y\n", True),
        ("page.md:9", "bash", "ls\n", False),
    ]
    assert commands("pip install .\npytorch-dl run --src a \\\n  b.c=1  # why\npytorch-dl check | head\n") == [
        ["run", "--src", "a", "b.c=1"],
        ["check"],
    ]


def test_the_measured_figures_are_those_of_the_result_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition(readme.BEGIN)[2].partition(readme.END)[0]
    assert shown == readme.block(), "run python benchmark/readme.py"
