"""Caches: a token store is used when it is of this text, tokenizer and layout, and whole; if not, it is built anew."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_of_files import damaged
from privileges import no_privileges
from store_builders import ROOT, build_at_once, write_text
from stores import BYTES, PAIRS, Cache, Pairs, assert_holds

from pytorch_dl.dataset import token_store
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.dataset.tokenizer_folder import Definition
from pytorch_dl.errors import ResourceError
from pytorch_dl.files import damage

COLUMNS = [[f"{word} {line}" for line in range(20)] for word in ("cat", "Katze", "chat", "gato")]
TEXT = "".join("\t".join(cells) + "\n" for cells in zip(*COLUMNS, strict=True))
EMPTY_PICKLE = b"\x80\x04]\x94."
BOMB = b"cos\nsystem\n(S'touch canary'\ntR."
TAKEN_OVER = 30  # seconds


class Setting:
    """What a store is made from: the bytes of a file, two of its columns, and a tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "text.tsv"
        self.file.write_text(TEXT)
        self.columns, self.tokenizers = (1, 2), BYTES

    def open(self, cache: Cache) -> None:
        """The store must hold what the text is now."""
        names = map(str, self.columns)
        source = TextSource(str(self.file), **dict(zip(("src_column", "tgt_column"), names, strict=True)))
        rows = [line.split("\t") for line in self.file.read_text().splitlines()]
        expected = [(row[self.columns[0] - 1], row[self.columns[1] - 1]) for row in rows]
        assert_holds(cache.open(source, tokenizers=self.tokenizers), expected, self.tokenizers)

    def change_text(self, rng: random.Random) -> str:
        place = rng.choice([place for place, letter in enumerate(TEXT) if letter not in "\t\n"])
        self.file.write_text(f"{TEXT[:place]}#{TEXT[place + 1 :]}")
        return str(self.file)

    def change_tokenizer(self, rng: random.Random) -> str:
        """Two letters of the vocabulary change places."""
        definition = json.loads(BYTES.src.definition.json)
        vocabulary = definition["model"]["vocab"]
        first, second = rng.sample("acehitz", 2)
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        changed = Tokenizer(Definition(json.dumps(definition), BYTES.src.definition.specials), where="changed")
        self.tokenizers = TokenizerPair(changed, changed)
        return "the tokenizer"

    def change_columns(self, rng: random.Random) -> str:
        while self.columns == (1, 2):
            self.columns = tuple(rng.sample(range(1, 5), 2))
        return str(self.file)


def test_c1_what_a_store_is_made_from_changes(case, tmp_path, monkeypatch):
    rng, times = random.Random(1), case.size(3, 50)
    changes: list[Callable[[Setting, random.Random], str]] = [
        Setting.change_text,
        Setting.change_tokenizer,
        Setting.change_columns,
        functools.partial(change_version, monkeypatch),
    ]
    for number in range(times):
        for change in changes:
            cache, setting = Cache(tmp_path / f"cache{number}"), Setting(tmp_path)
            setting.open(cache)
            what = change(setting, rng)
            setting.open(cache)
            assert cache.reports[0].endswith(f", because {what} changed since the last one"), cache.reports
            setting.open(cache)
            assert not cache.built
            monkeypatch.undo()
            shutil.rmtree(cache.folder)
    case.survived(
        len(changes) * times,
        injected="one byte of the text, the tokenizer, an option or the layout changed",
        lost="nothing: no stale store, the reason told",
    )


def change_version(monkeypatch: pytest.MonkeyPatch, _: Setting, rng: random.Random) -> str:
    monkeypatch.setattr(token_store, "STORE_VERSION", rng.randrange(2, 1000))
    return "the layout of stores"


def test_c2_a_damaged_store(case, tmp_path):
    rng, times, cache = random.Random(2), case.size(60, 1000), Cache(tmp_path / "cache")
    text = PAIRS[:9]
    cache.open(Pairs(text))
    (store,) = cache.stores
    for _ in range(times):
        what = damaged(store, rng)
        assert_holds(cache.open(Pairs(text)), text)
        assert len(cache.reports) == 1, what
        assert cache.reports[0].startswith(f"token store {store} is damaged ("), what
        assert cache.stores == [store]
        assert damage(store) is None
    case.survived(times, injected="a bit, a cut, an empty or missing file in a token store", lost="nothing: built anew")


AUDITED = """
import sys
from pathlib import Path
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.token_store import open_or_build
from pytorch_dl.dataset.tokenizer import build_tokenizers
found, watching = [], False
def watch(event, given):
    if watching and (event == "pickle.find_class" or event == "open" and ".pkl" in str(given[0])):
        found.append(event)
sys.addaudithook(watch)
source = TextSource("text.tsv")
pair = build_tokenizers([source], name="byte", vocab_size=300, shared=True)
for folder in sys.argv[1:]:
    said = []
    watching = True
    store = open_or_build([source], pair, cache_dir=Path(folder), report=said.append)
    watching = False
    print(folder, len(store), int(store.src_ids.sum()), len(said), found)
"""


def test_c3_pickles_and_empty_stores(case, tmp_path, monkeypatch):
    """What older programs left in the cache, under the store's own name too, is never opened."""
    rng, times = random.Random(3), case.size(8, 100)
    monkeypatch.chdir(tmp_path)
    Path("text.tsv").write_text("".join(f"{src}\t{tgt}\n" for src, tgt in PAIRS))
    whole = Cache(Path("whole"))
    store = whole.open(TextSource("text.tsv"))
    (made,) = whole.stores
    expected_said = []
    for number in range(times):
        cache = Path(f"cache{number}")
        cache.mkdir()
        for name in ("src-train_cache.pkl", "src-val_cache.pkl", "train.pkl"):
            (cache / name).write_bytes(rng.choice((EMPTY_PICKLE, BOMB, b"")))
        found = ("none", "empty folder", "pickle", "empty files", "beside a whole one")[number % 5]
        if found == "beside a whole one":
            shutil.copytree(made, cache / made.name)
        elif found != "none":
            (cache / made.name).mkdir()
        if found == "pickle":
            (cache / made.name / "store.pkl").write_bytes(BOMB)
        if found == "empty files":
            for path in made.iterdir():
                (cache / made.name / path.name).touch()
        expected_said.append(0 if found == "beside a whole one" else 1)
    folders = [f"cache{number}" for number in range(times)]
    told = subprocess.check_output(
        [sys.executable, "-c", AUDITED, *folders], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True
    )
    sums = f"{len(PAIRS)} {int(store.src_ids.sum())}"
    assert told.splitlines() == [f"{folders[i]} {sums} {expected_said[i]} []" for i in range(times)]
    assert not Path("canary").exists()
    case.survived(times, injected="pickles and empty stores in the cache", lost="nothing: no pickle opened, built anew")


@pytest.mark.slow
def test_c4_several_build_at_once(case, tmp_path):
    """Four processes; in every other round the builder is killed, and one of those that wait takes over."""
    rng, times, killed, slowest = random.Random(4), case.size(4, 100), 0, 0.0
    source = write_text(tmp_path, times=600)
    expected = Cache(tmp_path / "expected").open(source)
    result = f"{len(expected)} {expected.src_ids.sum()}"
    for number in range(times):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        builders = build_at_once(tmp_path, 4)
        victim = None
        said = [first_line(one) for one in builders]
        if number % 2:
            victim = next(one for one, line in zip(builders, said, strict=True) if "building /" in line)
            time.sleep(rng.uniform(0, 0.2))
            victim.send_signal(signal.SIGKILL)
        asked = time.monotonic()
        told = [one.communicate() for one in builders]
        slowest = max(slowest, time.monotonic() - asked)
        assert [err for _, err in told] == [""] * 4
        whole = [line + out for line, (out, _), one in zip(said, told, builders, strict=True) if one.returncode == 0]
        assert len(whole) >= 4 - (victim is not None)
        killed += len(whole) == 3
        assert {out.splitlines()[-1] for out in whole} == {result}
        cache = Cache(tmp_path / "cache")
        cache.open(source)
        assert not cache.built
        assert sorted(path.name for path in cache.folder.iterdir()) == [".build.lock", cache.stores[0].name]
    assert killed >= times / 4
    assert slowest < TAKEN_OVER
    case.survived(
        times,
        injected=f"four processes build one token store; the builder killed {killed} times",
        lost=f"nothing: one whole store, at most {slowest:.0f} s later",
    )


def first_line(builder: "subprocess.Popen[str]") -> str:
    assert builder.stdout is not None
    return builder.stdout.readline()


def test_c4_a_folder_that_is_read_only(tmp_path, monkeypatch):
    """What is there serves; what is not is an error of resources."""
    monkeypatch.chdir(tmp_path)
    cache = Cache(Path("cache"))
    cache.open(Pairs())
    cache.folder.chmod(0o555)
    with no_privileges():
        assert_holds(cache.open(Pairs()), PAIRS)
        assert not cache.built
        with pytest.raises(
            ResourceError, match=r"^cache/.*: cannot write here: Permission denied\. Fix: choose"
        ) as error:
            cache.open(Pairs(PAIRS[:3]))
    assert error.value.exit_code == 6
    empty = Cache(Path("empty"))
    empty.folder.mkdir(mode=0o555)
    with (
        no_privileges(),
        pytest.raises(ResourceError, match=r"^empty: cannot build a token store here: Permission denied") as error,
    ):
        empty.open(Pairs())
    assert error.value.exit_code == 6
    cache.folder.chmod(0o755)
