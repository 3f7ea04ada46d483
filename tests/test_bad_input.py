"""Whatever a user or a broken disk may hand over: the exit code, one line that names place and values, nothing left.

Each case starts in a folder with good.tsv, good.src, good.tgt, c.yaml and the finished run `done` on text.tsv; it
spoils one thing and calls one command.
"""

import fcntl
import gzip
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hostile_files import Bomb, sign
from safetensors.torch import load_file, save_file
from tiny_runs import TINY, call, copied_run, pairs, snapshot, write_tsv

HERE = Path(".")
MODEL, NORM = "done/model/model.safetensors", "encoder_norm.weight"
NEWEST = "done/checkpoints/step-00000020"
Spoil = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What is spoilt, the command, the exit code (2 config, 3 data, 4 checkpoint, 6 resource), parts of the line."""

    name: str
    spoil: Spoil
    command: str
    code: int
    parts: tuple[str, ...]


def case(name: str, spoil: Spoil, command: str, code: int, *parts: str) -> Case:
    return Case(name, spoil, command, code, parts)


def nothing() -> None: ...


def write(name: str, content: str | bytes) -> Spoil:
    content = content.encode() if isinstance(content, str) else content
    return lambda: Path(name).write_bytes(content)


def append(name: str, content: bytes) -> Spoil:
    return lambda: Path(name).write_bytes(Path(name).read_bytes() + content)


def delete(*names: str) -> Spoil:
    def spoil() -> None:
        for path in map(Path, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def flip(name: str) -> Spoil:
    """One bit in the middle of a file."""

    def spoil() -> None:
        content = bytearray(Path(name).read_bytes())
        content[len(content) // 2] ^= 1
        Path(name).write_bytes(content)

    return spoil


def signed(name: str, content: bytes) -> Spoil:
    def spoil() -> None:
        Path(name).write_bytes(content)
        sign(Path(name).parent)

    return spoil


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Change the tensors of the finished model."""

    def spoil() -> None:
        found = load_file(MODEL)
        change(found)
        save_file(found, MODEL)
        sign(Path(MODEL).parent)

    return spoil


def unfinished(*more: Spoil) -> Spoil:
    """The run as it was before its weights were written, with something spoilt in it."""

    def spoil() -> None:
        delete("done/model")()
        for step in more:
            step()

    return spoil


def each_checkpoint(spoil_one: Callable[[str], Spoil]) -> Spoil:
    def spoil() -> None:
        for path in Path("done/checkpoints").iterdir():
            spoil_one(str(path / "model.safetensors"))()

    return spoil


def state(**changes: object) -> Spoil:
    def spoil() -> None:
        found = json.loads(Path(NEWEST, "state.json").read_bytes())
        signed(f"{NEWEST}/state.json", json.dumps({**found, **changes}).encode())()

    return spoil


def pickled() -> bytes:
    """Unpickled, it leaves the file `exploded`."""
    return pickle.dumps(Bomb(Path("exploded")))


RUN, T = "run --out new ", "translate done -t a"
UNREADABLE = "model.safetensors: not a readable safetensors file"
TEXTS = [
    case("missing", nothing, RUN + "--src no.tsv", 3, "no.tsv: no such file. Fix: correct the path."),
    case("folder", lambda: Path("a.tsv").mkdir(), RUN + "--src a.tsv", 3, "a.tsv: is a folder"),
    case("empty", write("a.tsv", ""), RUN + "--src a.tsv", 3, "a.tsv: is empty (0 bytes)"),
    case("pipe", lambda: os.mkfifo("a.tsv"), RUN + "--src a.tsv", 3, "a.tsv: is not a regular file"),
    case("no tab", write("a.tsv", "a\tb\nno tab\n"), RUN + "--src a.tsv", 3, "a.tsv:2", "1"),
    case("byte", write("a.tsv", b"a\tb\nab\xff\tc\n"), RUN + "--src a.tsv", 3, "a.tsv:2:3: byte 0xff is not UTF-8"),
    case("NUL", write("a.tsv", b"a\tb\nc\t\0d\n"), RUN + "--src a.tsv", 3, "a.tsv:2:3: a NUL character"),
    case("UTF-16", write("a.tsv", "a\tb\n".encode("utf-16")), RUN + "--src a.tsv", 3, "a.tsv:1:1", "UTF-16"),
    case("blank", write("a.tsv", "a\tb\n \td\n"), RUN + "--src a.tsv", 3, "a.tsv", "blank side (1 source)", "line 2"),
    case("counts", append("good.tgt", b"more\n"), RUN + "--src good.src --tgt good.tgt", 3, "60", "61"),
    case("gzip", write("a.tsv.gz", gzip.compress(b"a\tb\n")[:-6]), RUN + "--src a.tsv.gz", 3, "a.tsv.gz"),
    case("json", write("a.jsonl", '{"src": "a"\n'), RUN + "--src a.jsonl", 3, "a.jsonl:1", "JSON"),
    case("key", write("a.jsonl", '{"src": "a"}\n'), RUN + "--src a.jsonl", 3, "a.jsonl:1", "tgt"),
    case("number", write("a.jsonl", '{"src": "a", "tgt": 7}\n'), RUN + "--src a.jsonl", 3, "a.jsonl:1", "7"),
    case("parquet", write("a.parquet", "PAR1"), RUN + "--src a.parquet", 3, "a.parquet", "Parquet"),
    case("split", nothing, RUN + "--src good.tsv --split 60", 3, "good.tsv", "hold out 60 of 60 pairs"),
    case(
        "too long", nothing, RUN + "--src good.tsv data.max_length=2", 3, "60 (100.0 %) pairs", "max_length (2 tokens)"
    ),
    case(
        "bleu",
        nothing,
        RUN + "--src good.tsv --split 9 training.eval_decode=9 training.early_stopping_metric=bleu",
        2,
        "training.early_stopping_metric is bleu, which counts runs of four words, but no translated validation target",
        "Fix: choose chrf or exact_match, or raise training.eval_decode",
    ),
    case("validation", nothing, RUN + "--src good.tsv --val-src no.tsv", 3, "no.tsv: no such file"),
    case("test", nothing, RUN + "--src good.tsv --test-src no.tsv", 3, "no.tsv: no such file"),
    case(
        "all too long",
        nothing,
        "train c.yaml --out new data.max_length=2",
        3,
        "all 60 training pairs",
        "max_length (2)",
    ),
    case("check", write("a.tsv", "a\n\n"), "check --src a.tsv", 3, "a.tsv:1", "(and 1 more)"),
]
CONFIGS = [
    case("missing", nothing, "train no.yaml", 2, "no.yaml: no such configuration file", "config show tiny"),
    case("folder", nothing, "train done", 2, "done: cannot be read: Is a directory"),
    case("byte", write("c.yaml", b"model: {\xff}"), "train c.yaml", 2, "c.yaml: byte 8 is not UTF-8"),
    case("huge", write("c.yaml", b"#" * 2_000_000), "train c.yaml", 2, "2,000,000 bytes", "limit of 1,048,576"),
    case("word", write("c.yaml", "hello"), "train c.yaml", 2, "c.yaml:1: expected sections", "'hello'"),
    case("open", write("c.yaml", "data:\n  on_blank: [1\n"), "train c.yaml", 2, "c.yaml:3:1: not readable as YAML"),
    case("twice", write("c.yaml", "model:\n bias: true\n bias: true\n"), "train c.yaml", 2, "c.yaml:3: model.bias"),
    case("tag", write("c.yaml", "model: !!python/object:os.system {}"), "train c.yaml", 2, "c.yaml:1: the tag"),
    case("alias", write("c.yaml", "model: &a {}\ndata: *a"), "train c.yaml", 2, "c.yaml:1: anchors and aliases"),
    case("deep", write("c.yaml", "[" * 5000), "train c.yaml", 2, "c.yaml:1: nested deeper than 20 levels"),
    case("section", write("c.yaml", "modle: {}"), "train c.yaml", 2, "c.yaml:1: unknown setting 'modle'", "'model'"),
    case("key", write("c.yaml", "\nmodel:\n  d_modl: 8"), "train c.yaml", 2, "yaml:3", "did you mean 'model.d_model'"),
    case("place", write("c.yaml", "model: {batch_size: 8}"), "train c.yaml", 2, "did you mean 'training.batch_size'"),
    case("type", write("c.yaml", "model:\n  d_model: wide"), "train c.yaml", 2, "c.yaml:2: model.d_model", "'wide'"),
    case("choice", nothing, RUN + "model.activation=tanh", 2, "one of relu, gelu, swiglu, geglu, got 'tanh'"),
    case("range", nothing, RUN + "model.dropout=1", 2, "model.dropout", "less than 1", "got 1"),
    case("infinite", nothing, RUN + "training.learning_rate=.inf", 2, "training.learning_rate", "finite", "inf"),
    case("unit", nothing, RUN + "training.time_limit=5parsecs", 2, "such as 90s, 45min or 2h, got '5parsecs'"),
    case("equals", nothing, RUN + "model.d_model", 2, "cannot read the override 'model.d_model'", "model.d_model=256"),
    case("dot", nothing, RUN + "d_model=8", 2, "cannot read the setting 'd_model'"),
    case("unknown", nothing, RUN + "model.heads=8", 2, "command line: unknown setting 'model.heads'"),
    case("template", nothing, RUN + "--preset tinny", 2, "unknown template 'tinny', did you mean 'tiny'", "nano"),
    case("both", nothing, RUN + "--config c.yaml --preset tiny", 2, "--config c.yaml and --preset tiny exclude"),
    case("no text", nothing, RUN, 2, "there is no training text", "give --src"),
    case("all at once", nothing, RUN + "--src good.tsv --split 5 --val-src good.tsv model.d_model=30 model.n_heads=4",
         2, "model.d_model (30) must be divisible by model.n_heads (4); nearest: 28 or 32", "data.val_split (5)"),
    case("same", nothing, RUN + "--src good.tsv --tgt good.tsv", 2, "are both 'good.tsv': the model would learn"),
    case("device", nothing, RUN + "--src good.tsv system.device=cuda", 2, "cuda is asked for, but torch finds no GPU"),
]  # fmt: skip
RUN_FOLDERS = [
    case("missing", nothing, "resume no", 4, "no: no such run folder", "its --out"),
    case("other", lambda: Path("empty").mkdir(), "resume empty", 4, "empty: is not a run folder: it has no config"),
    case("file", nothing, "translate good.tsv -t ab", 4, "good.tsv: no such run folder"),
    case("config", write("done/config.yaml", "model: 7"), "resume done", 4, "done/config.yaml:1", "got 7"),
    case("setting", append("done/config.yaml", b"\nx: 1"), T, 4, "unknown setting 'x'"),
    case("model", flip(MODEL), T, 4, "done/model: model.safetensors does not match its checksum"),
    case("manifest", write("done/model/manifest.json", "{"), T, 4, "manifest.json cannot be read"),
    case("pickle", signed(MODEL, pickled()), T, 4, UNREADABLE),
    case("short", signed(MODEL, b""), T, 4, UNREADABLE),
    case("huge header", signed(MODEL, b"\xff" * 16), T, 4, UNREADABLE),
    case("lacking", tensors(lambda found: found.pop(NORM)), T, 4, f"{NORM!r} is missing"),
    case("extra", tensors(lambda found: found.update(x=torch.ones(1))), T, 4, "'x' is not part of this model"),
    case("shape", tensors(lambda found: found.update({NORM: torch.ones(8)})), T, 4, "(8,), the model expects (16,)"),
    case("NaN", tensors(lambda found: found[NORM].fill_(torch.nan)), T, 4, f"{NORM!r} holds numbers that are not"),
    case("early", unfinished(delete("done/checkpoints")), T, 4, "has no trained model yet", "resume done"),
    case("all torn", unfinished(each_checkpoint(flip)), "resume done", 4, "none of the 2 checkpoints is whole"),
    case("fields", unfinished(state(more=1)), "resume done", 4, "state has other fields than expected: more"),
    case("field", unfinished(state(step="two")), "resume done", 4, "step", "'two'"),
    case("list", unfinished(signed(f"{NEWEST}/state.json", b"[]")), "resume done", 4, "json: is not a JSON object"),
    case("bomb", unfinished(each_checkpoint(lambda name: signed(name, pickled()))), "resume done", 4, UNREADABLE),
    case("no tokenizer", delete("done/tokenizer"), T, 4, "done/tokenizer: this tokenizer folder is damaged"),
    case("tokenizer gone", unfinished(delete("done/tokenizer")), "resume done", 4, "done/tokenizer", "is not a folder"),
    case("tokenizer flipped", flip("done/tokenizer/tokenizer.json"), T, 4, "does not match its checksum"),
    case("tokenizer pickled", signed("done/tokenizer/tokenizer.json", pickled()), T, 4, "tokenizer.json"),
    case("misspelt", nothing, "check --src good.tsv data.tokenizer_name=chars", 2, "'chars', did you mean 'char'?"),
    case("misspelt too", nothing, "train c.yaml --out new data.tokenizer_name=BPE", 2, "'BPE', did you mean 'bpe'?"),
    case("pretrained", nothing, RUN + "--src good.tsv data.tokenizer_name=./done", 4, "'./done' cannot be loaded"),
    case("record", unfinished(write("done/data.json", "[]")), "resume done", 4, "done/data.json: cannot be read"),
    case("plan", unfinished(write("done/evaluation.json", "{}")), "resume done", 4, "json: expected a beam_size"),
    case("changed", unfinished(append("text.tsv", b"a\tb\n")), "resume done", 4, "the text has changed", "expected"),
    case("spoilt text", unfinished(append("text.tsv", b"\xff")), "resume done", 4, "text has changed", "tsv:61:1"),
    case("store", unfinished(delete("text.tsv", "done/cache")), "resume done", 3, "text is gone, and so is its token"),
]  # fmt: skip
ARGUMENTS = [
    case("command", nothing, "trian done", 2, "No such command 'trian'", "'train'"),
    case("option", nothing, "run --sorce a", 2, "No such option: --sorce", "pytorch-dl run --help"),
    case("value", nothing, "check --src", 2, "--src", "requires an argument"),
    case("argument", nothing, "resume", 2, "Missing argument 'RUN'"),
    case("source", nothing, "evaluate done", 2, "Missing option '--src'"),
    case("beam", nothing, "translate done --beam 0", 2, "'--beam'", "greater than or equal to 1"),
    case("number", nothing, "translate done --beam five", 2, "'--beam'", "integer"),
    case("penalty", nothing, "translate done --length-penalty 99 -t a", 2, "length_penalty is 99", "from 0 to 10"),
    case("device", nothing, "translate done --device tpu -t a", 2, "unknown device 'tpu'"),
    case("encoding", nothing, "translate done -t \udcff", 2, r"the argument b'\xff' is not UTF-8"),
    case(
        "file", nothing, "translate done no.txt", 3, "no.txt: no such file. Fix: correct the path; a line to translate"
    ),
    case("both", nothing, "translate done good.src -t a", 2, "--text and the file good.src exclude each other"),
    case("bytes", write("a.txt", b"ab\ncd \xff"), "translate done a.txt", 3, "a.txt:2:4: byte 0xff is not UTF-8"),
    case("references", append("good.tgt", b"x\n"), "evaluate done --src good.src --ref good.tgt", 3, "60", "61"),
    case(
        "long", write("a.tsv", "a" * 99 + "\tb"), "evaluate done --src a.tsv", 3, "all 1 pairs are longer", "40 tokens"
    ),
    case(
        "compared", write("o", "a\n"), "evaluate done --src good.tsv --compare o", 3, "o: 1 translations for 60 pairs"
    ),
    case("comet", nothing, "evaluate done --src good.tsv --comet no", 2, "--comet no: cannot run it: No such file"),
    case("template", nothing, "config show big", 2, "unknown template 'big'", "transformer-big"),
    case("taken", nothing, "run --src good.tsv --out done", 2, "done: the folder already holds a run", "resume done"),
    case("out", nothing, "run --src good.tsv --out good.src", 6, "good.src", "cannot write here"),
    case("cache", nothing, RUN + "--src good.tsv data.cache_dir=good.src", 6, "good.src: cannot build a token store"),
    case("petabyte", nothing, RUN + "--src good.tsv model.d_model=1000b", 6, "out of memory"),
]
GROUPS = {"text": TEXTS, "config": CONFIGS, "run folder": RUN_FOLDERS, "argument": ARGUMENTS}
CASES = [pytest.param(item, id=f"{group}: {item.name}") for group, cases in GROUPS.items() for item in cases]
SETTINGS_TAKEN_BY = ("run", "train")


@pytest.fixture
def folder(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a case."""
    monkeypatch.chdir(tmp_path)
    write_tsv(HERE / "good.tsv")
    (HERE / "c.yaml").write_text("data: {train_data_path: good.tsv}")
    for name, side in zip(("good.src", "good.tgt"), zip(*pairs(60), strict=True), strict=True):
        (HERE / name).write_text("".join(f"{text}\n" for text in side))
    copied_run(tiny_run, tmp_path)
    return tmp_path


def settings(item: Case) -> list[str]:
    """The tiny sizes, where the command takes settings and the case does not give them itself."""
    words = item.command.split()
    given = {word.partition("=")[0] for word in words}
    return [word for word in TINY if word.partition("=")[0] not in given] if words[0] in SETTINGS_TAKEN_BY else []


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(folder).items() if not name.endswith(".lock")}


@pytest.mark.parametrize("item", CASES)
def test_bad_input_ends_in_one_line(item: Case, folder: Path, capsys: pytest.CaptureFixture[str]):
    item.spoil()
    before = contents(folder)
    words = [word for word in item.command.split(" ") if word]
    result = call(capsys, *words, *settings(item))
    assert result.code == item.code, result.err
    (line,) = result.error_lines
    assert result.err.endswith(f"{line}\n")
    for part in item.parts:
        assert part in line
    assert item.code == 2 or " Fix: " in line
    assert "Traceback" not in result.err
    assert "internal error" not in result.err
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before
    new = after.keys() - before.keys()
    assert not [name for name in new if ".pytorch-dl-tmp-" in name or "model" in name or "checkpoints" in name]
    assert new <= {"new/config.yaml", "new/environment.json", "new/evaluation.json", "new/data.json"} | {
        name for name in new if name.startswith(("new/tokenizer/", "new/cache/"))
    }
    assert not Path("exploded").exists()


def test_a_misspelt_tokenizer_leaves_no_folder(folder, capsys):
    assert call(capsys, "train", "c.yaml", "--out", "new", "data.tokenizer_name=BPE").code == 2
    assert not Path("new").exists()


def test_a_run_in_use_is_not_touched(folder, capsys):
    delete("done/model")()
    with open("done/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        before = contents(folder)
        result = call(capsys, "resume", "done")
    assert result.code == 6
    assert "another process (pid 4711) is using this run folder" in result.error_lines[0]
    assert contents(folder) == before


def test_the_newest_whole_checkpoint_serves_and_the_torn_one_is_named(folder, tiny_run, capsys):
    unfinished(flip(f"{NEWEST}/optimizer.safetensors"))()
    result = call(capsys, "resume", "done")
    assert result.code == 0
    assert "skipping checkpoint step-00000020: optimizer.safetensors does not match its checksum" in result.err
    assert "resuming at step 10" in result.err
    assert Path(MODEL).read_bytes() == (tiny_run / "model/model.safetensors").read_bytes()


def test_a_damaged_token_store_is_built_anew(folder, tiny_run, capsys):
    for store in Path("done/cache").glob("*/src_ids"):
        flip(str(store))()
    unfinished(delete("done/checkpoints"))()
    result = call(capsys, "resume", "done")
    assert result.code == 0
    assert result.err.count("is damaged (src_ids does not match its checksum); building it anew") == 2
    assert Path(MODEL).read_bytes() == (tiny_run / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("package", "code", "arguments"),
    [
        ("transformers", 2, ["data.tokenizer_name=gpt2"]),
        ("pyarrow", 3, ["data.train_data_path=text.parquet"]),
        ("datasets", 3, ["data.train_data_path=hf://some/text"]),
    ],
)
def test_a_missing_extra_is_named_with_its_command(package, code, arguments, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    Path("text.parquet").write_bytes(b"PAR1")
    given = [word for word in TINY if word.partition("=")[0] not in arguments[0]]
    result = call(capsys, "run", "--src", "good.tsv", "--out", "new", *given, *arguments)
    assert result.code == code, result.err
    assert "pip install 'pytorch-dl[hf]'" in result.error_lines[0]
