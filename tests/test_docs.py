"""README and docs: every block runs, and every command, option and setting that they name exists."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from doc_pages import FENCE, PAGES, SPAN, blocks, commands, running_text
from tiny_runs import ROOT, pairs, write_tsv
from warm_shell import WarmShell

from benchmark import readme
from pytorch_dl.cli import app
from pytorch_dl.config import Config, load_config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.experiments.arms import grid

NOT_RUN = {  # installations, trainings of minutes, several processes: these blocks are looked at, and no more
    "README.md": 3,
    "api.md": 1,
    "choosing.md": 1,
    "first-translator.md": 1,
    "scale.md": 4,
    "using.md": 3,
    "weights.md": 2,
}
LINES = 200  # of the texts that a page makes
MAKES_ITS_RUN = {"README.md"}  # runs/mine: all other pages find one
FROM_NOTHING = {"first-translator.md"}  # but what the reader downloads
SETTING = re.compile(r"[a-z]+\.[a-z_]+=")
NAMED = re.compile(rf"(?<![\w./-])({'|'.join(Config.model_fields)})\.([a-z][a-z_0-9]*)")
FILES = {"json", "jsonl", "yaml", "html"}  # data.json is no setting
BLOCKS = {page: blocks(page) for page in PAGES}
ALL = list(itertools.chain(*BLOCKS.values()))
SHELL = [
    pytest.param(words, id=f"{block.place}: {' '.join(words)}")
    for block in ALL
    if block.kind == "bash"
    for words in commands(block.text)
]
by_name = {"ids": lambda page: page.name}


@pytest.fixture(scope="session")
def shell() -> Iterator[WarmShell]:
    with WarmShell() as warm:
        yield warm


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCKS[page]], **by_name)
def test_every_block_runs(
    page: Path, shell: WarmShell, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one folder."""
    set_up(tmp_path, tiny_run, page.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for block in BLOCKS[page]:
        if block.kind == "bash" and block.skipped:
            subprocess.run(["bash", "-n", "-c", block.text], check=True)
        elif block.kind == "bash":
            done = shell.run(block.text, folder=tmp_path)
            assert done.returncode == 0, f"{block.place} ends with {done.returncode}: {done.stdout}"
            shorten(tmp_path)
        elif block.kind == "python":
            code, printed = compile(block.text, block.place, "exec"), io.StringIO()
            if not block.skipped:
                with contextlib.redirect_stdout(printed):
                    exec(code, {"__name__": "__main__"})
            if block.printed is not None:
                assert printed.getvalue() == block.printed, block.place
        elif block.kind == "yaml":
            (tmp_path / "config.yaml").write_text(block.text)
            load_config(tmp_path / "config.yaml")
        else:
            assert block.kind == "text", f"{block.place}: nothing looks at a block of {block.kind}"


def shorten(folder: Path) -> None:
    """What a block has made of texts, to a size that the next one is done with in seconds."""
    for path in folder.glob("*.tsv"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:LINES]))


def set_up(folder: Path, run: Path, page: str) -> None:
    """What a page takes for granted: a run, and texts in all forms under the names that it uses."""
    shutil.copytree(ROOT / "configs", folder / "configs")
    texts = {"train": pairs(200), "val": pairs(20, first=200), "test": pairs(20, first=220)}
    for name, found in {**texts, "test_2016_flickr": texts["test"]}.items():
        for suffix, side in zip(("en", "de"), zip(*found, strict=True), strict=True):
            text = "".join(f"{line}\n" for line in side)
            (folder / f"{name}.{suffix}.gz").write_bytes(gzip.compress(text.encode()))
            if page not in FROM_NOTHING:
                (folder / f"{name}.{suffix}").write_text(text)
    if page in FROM_NOTHING:
        return
    write_tsv(folder / "pairs.tsv", 200)
    write_tsv(folder / "test.tsv", 20, first=220)
    shutil.copy(folder / "test.en", folder / "sources.txt")
    shutil.copy(folder / "test.de", folder / "other.txt")
    (folder / "config.yaml").write_text(json.dumps({"data": {"train_data_path": "pairs.tsv", "val_split": 20}}))
    with (folder / "pairs.csv").open("w") as file:
        csv.writer(file).writerows([("english", "german"), *texts["train"]])
    shutil.copy(folder / "pairs.tsv", folder / "more.tsv")
    if page not in MAKES_ITS_RUN:
        shutil.copytree(run, folder / "runs/mine")


@pytest.mark.parametrize("words", SHELL)
def test_commands_and_settings_exist(words: list[str]) -> None:
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


@pytest.mark.parametrize("page", PAGES, **by_name)
def test_what_running_text_names_exists(page: Path) -> None:
    assert unknown_names(running_text(page)) == []


def unknown_names(text: str) -> list[str]:
    """Settings and commands between backticks that there are not."""
    unknown, command = [], typer.main.get_command(app)
    for span in SPAN.findall(text):
        for section, key in NAMED.findall(span):
            if key not in type(getattr(Config(), section)).model_fields and key not in FILES:
                unknown.append(f"{section}.{key}")
        words = span.split()
        if words[0] == "pytorch-dl" and len(words) > 1 and words[1].isalpha() and words[1] not in command.commands:
            unknown.append(f"pytorch-dl {words[1]}")
    return unknown


def test_there_is_something_to_run() -> None:
    run = Counter(block.kind for block in ALL if not block.skipped)
    assert run["bash"] >= 20
    assert run["python"] >= 6
    assert run["yaml"] >= 3
    assert sum(block.printed is not None for block in ALL) >= 3
    assert len(SHELL) >= 40
    assert sum(len(NAMED.findall(running_text(page))) for page in PAGES) >= 100


def test_what_is_not_run_is_counted() -> None:
    assert Counter(page.name for page in PAGES for block in BLOCKS[page] if block.skipped) == NOT_RUN


@pytest.mark.parametrize("page", PAGES, **by_name)
def test_no_block_escapes(page: Path) -> None:
    """An indented fence, or one with more words behind it, would be none of `blocks`."""
    assert len(FENCE.findall(page.read_text(encoding="utf-8"))) == 2 * len(BLOCKS[page])


def test_blocks_are_found_as_they_are_marked(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n```python\nx = 1\n```\n\n```text\n1\n```\n<!-- not run: slow -->\n```python\ny\n```\n```bash\nls\n```\n"
    )
    assert blocks(page) == [
        ("page.md:2", "python", "x = 1\n", False, "1\n"),
        ("page.md:6", "text", "1\n", False, None),
        ("page.md:10", "python", "y\n", True, None),
        ("page.md:13", "bash", "ls\n", False, None),
    ]


def test_commands_are_found_wherever_they_stand() -> None:
    text = """pip install . && pytorch-dl run --src a#b \\
  b.c=1  # why, pytorch-dl demo
python -c "
x; y
"
cut -f1 a | pytorch-dl check < 'b c' | head
torchrun --nproc-per-node 2 -m pytorch_dl train config.yaml
"""
    assert commands(text) == [["run", "--src", "a#b", "b.c=1"], ["check"], ["train", "config.yaml"]]


def test_unknown_names_are_found() -> None:
    text = "`model.d_model=1`, `model.depth` and `data.json`; `pytorch-dl run` or\n`pytorch-dl fly x`; model.nothing"
    assert unknown_names(text) == ["model.depth", "pytorch-dl fly"]


def test_the_measured_figures_are_those_of_the_result_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition(readme.BEGIN)[2].partition(readme.END)[0]
    assert shown == readme.block(), "run python benchmark/readme.py"
