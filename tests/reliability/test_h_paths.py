"""Paths of strangers: links, pipes and devices in the place of files, names that lead out of a folder, and giants."""

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hostile_files import MEGABYTE, Watch, forget_peak, peak_bytes, quickly, sign
from tiny_runs import TINY, call, copied_run

from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import MANIFEST, damage, sha256


def link_out(path: Path, outside: Path) -> None:
    """To a file like it."""
    shutil.copy(path, outside / path.name)
    path.unlink()
    path.symlink_to(outside / path.name)


def link_to(target: str) -> Callable[[Path, Path], None]:
    def put(path: Path, outside: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return put


def pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def door(path: Path, outside: Path) -> None:
    """A socket."""
    path.unlink()
    with suppress(OSError), socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def giant(path: Path, outside: Path) -> None:
    os.truncate(path, 10 * 2**30)  # of which nothing is on the disk


def folder(path: Path, outside: Path) -> None:
    path.unlink()
    path.mkdir()


RUN_FILES = (
    "config.yaml",
    "data.json",
    "evaluation.json",
    "environment.json",
    "metrics.jsonl",
    "timing.jsonl",
    ".lock",
)
CHECKPOINT_FILES = ("model.safetensors", "optimizer.safetensors", "state.json", MANIFEST)
FILES = [
    *RUN_FILES,
    *(f"model/{name}" for name in ("model.safetensors", "origin.json", MANIFEST)),
    *(f"checkpoints/*/{name}" for name in CHECKPOINT_FILES),
    *(f"tokenizer/{name}" for name in ("tokenizer.json", "tokenizer_meta.json", MANIFEST)),
    *(f"cache/*/{name}" for name in ("src_ids", "meta.json", MANIFEST)),
]
KINDS: dict[str, Callable[[Path, Path], None]] = {
    "a link out": link_out,
    "a link to a device": link_to("/dev/zero"),
    "a link to nothing": link_to("nothing"),
    "a pipe": pipe,
    "a socket": door,
}
READ_WHOLE = (
    "config.yaml",
    "data.json",
    "evaluation.json",
    "state.json",
    MANIFEST,
    "tokenizer.json",
    "tokenizer_meta.json",
)

# What a command first writes or opens in a folder that it is given, and the words that lead there.
FIRST_WRITTEN = {
    ("train", "{config}", "--out", "{folder}"): (
        *(".lock", "environment.json", "config.yaml", "begun.yaml", "data.json", "weights_from.json"),
        *("metrics.jsonl", "timing.jsonl", "cache/.build.lock", "checkpoints/x", "tokenizer/x"),
    ),
    ("run", "--config", "{config}", "--out", "{folder}"): (".lock", "environment.json", "evaluation.json"),
    ("compare", "{config}", "--vary", "model.dropout=0,0.1", "--seeds", "1", "--out", "{folder}"): (
        *(".lock", "comparison.json", "results.json", "costs.json", "runs/01-model.dropout=0/seed-1.log"),
    ),
    ("translate", "{run}", "-t", "ab", "--out", "{folder}/out.txt"): (
        *("out.txt.part", "out.txt.part.json", "out.txt.job.json"),
    ),
    ("train", "{config}", "--out", "{folder}-run", "data.cache_dir={folder}"): (".build.lock",),
}
HASHED = "checkpoints/*/state.json"  # whose sum is compared before its size, which takes a while


@pytest.fixture
def outside(tmp_path):
    """A folder that no run leads to."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("secret")
    return path


def unfinished_run(tiny_run: Path, target: Path, *, keeps: str) -> Path:
    """One to resume, unless what `keeps` names is of the finished model."""
    run = copied_run(tiny_run, target)
    if not keeps.startswith("model/"):
        shutil.rmtree(run / "model")
    return run


def test_h4_what_is_no_plain_file(case, tiny_run, tmp_path, outside, capsys, monkeypatch):
    """Links, pipes, sockets and devices in a run's folder are refused before one of them is opened."""
    every = [(name, kind) for name in FILES for kind in KINDS][:: case.size(3, 1)]
    for number, (name, kind) in enumerate(every):
        run = unfinished_run(tiny_run, tmp_path / str(number), keeps=name)
        monkeypatch.chdir(run)
        for path in run.glob(name):
            if "*" in name or not (run / name).is_dir():
                KINDS[kind](path, outside)
        command = ("translate", run, "-t", "ab") if name.startswith("model/") else ("resume", run)
        with Watch(outside) as watch, quickly(2, f"{name} is {kind}"):
            result = call(capsys, *command)
            assert not watch.seen(), f"{name} is {kind}"
        assert result.code == 4, f"{name} is {kind}: {result.err}"
        assert "is not a plain file" in result.error_lines[0] and str(run) in result.error_lines[0]
        shutil.rmtree(run.parent)
    paths = lead_out_of_manifests(case, tiny_run, tmp_path, outside, capsys)
    giants = too_large(case, tiny_run, tmp_path, capsys)
    first = lie_where_a_command_writes_first(case, tiny_run, tmp_path, outside, capsys, monkeypatch)
    case.survived(
        len(every) + paths + giants + first,
        injected="a link, pipe, socket, device, path outside or file of 10 GB in a folder that a command is given",
        lost="nothing outside opened or written",
    )


def lead_out_of_manifests(case, tiny_run, tmp_path, outside, capsys) -> int:
    """Manifests that name files outside, with right checksums; nothing of them is opened."""
    secret, sum_of_it = outside / "secret", sha256(outside / "secret")
    names = ["../" * depth + "outside/secret" for depth in range(1, 6)] + [str(secret), "x/../../../../outside/secret"]
    names += ["up/outside/secret", "to/secret", "secret", "..", "/", "", "\0", "~/secret", f"file://{secret}"]
    found = 0
    for place in ("model", "checkpoints/step-00000020", "tokenizer", "cache/*")[:: case.size(2, 1)]:
        for name in names:
            run = unfinished_run(tiny_run, tmp_path / "paths", keeps=f"{place}/")
            target = next(path for path in sorted(run.glob(place)) if path.is_dir())
            sign(target, {name: sum_of_it})
            with Watch(outside) as watch:
                reason = damage(target)
                assert reason is not None, name
                if place == "tokenizer":
                    with pytest.raises(CheckpointError):
                        TokenizerPair.load(target)
                command = ("translate", run, "-t", "ab") if place == "model" else ("resume", run)
                result = call(capsys, *command)
                assert not watch.seen(), name
            assert result.code == (4 if place in ("model", "tokenizer") else 0), f"{place}, {name}: {result.err}"
            shutil.rmtree(run.parent)
            found += 1
    return found


def too_large(case, tiny_run, tmp_path, capsys) -> int:
    """Files of 10 GB, of which only the first bytes are on the disk, that would be read as a whole."""
    names = [name for name in FILES if name.rpartition("/")[2] in READ_WHOLE and not name.startswith("cache")]
    names = [name for name in names if name != HASHED or case.size(0, 1)]
    for name in names:
        run = unfinished_run(tiny_run, tmp_path / "giants", keeps=name)
        for path in run.glob(name):
            giant(path, tmp_path)
            if name == HASHED:
                sign(path.parent)
        before = forget_peak()
        result = call(capsys, *(("translate", run, "-t", "ab") if name.startswith("model/") else ("resume", run)))
        assert result.code == 4, f"{name}: {result.err}"
        assert peak_bytes() - before < 64 * MEGABYTE, name
        shutil.rmtree(run.parent)
    return len(names)


def hostile_folder(path: Path, name: str, kind: str, outside: Path) -> Path:
    """A folder that holds no run, but has something in the place of what a command would write there."""
    target = path / name
    target.parent.mkdir(parents=True)
    os.chdir(path)  # as a socket has room for a short path only
    target.write_text("")
    KINDS[kind](target, outside)
    return path


def lie_where_a_command_writes_first(case, tiny_run, tmp_path, outside, capsys, monkeypatch) -> int:
    """Of links a command would write through, or make what they lead to."""
    config = tmp_path / "hostile.yaml"
    config.write_text(f"data: {{train_data_path: {tiny_run.parent / 'text.tsv'}, val_split: 12}}\n")
    every = [(words, name, kind) for words, names in FIRST_WRITTEN.items() for name in names for kind in KINDS]
    every = every[:: case.size(4, 1)]
    monkeypatch.chdir(tmp_path)  # until the test has ended
    for number, (words, name, kind) in enumerate(every):
        what = f"{words[0]}: {name} is {kind}"
        folder = hostile_folder(tmp_path / f"hostile-{number}", name, kind, outside)
        settings = [] if words[0] == "translate" else TINY
        given = [word.format(config=config, folder=folder, run=tiny_run) for word in words]
        with Watch(outside) as watch, quickly(3, what):
            result = call(capsys, *given, *settings)
            assert not watch.seen(), what
        assert result.code == 4, f"{what}: {result.err}"
        assert f"{folder / name}: is not a plain file" in result.error_lines[0], what
        assert not os.path.exists(folder / Path(name).parent / "nothing"), what
        os.chdir(tmp_path)
        shutil.rmtree(folder)
    return len(every)
