"""The command `export`: what it leaves works without this project, and says the same as `translate`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from safetensors.torch import load_file
from tiny_runs import TINY, call, snapshot, write_tsv

import pytorch_dl

BETTER = ["model.d_model=32", "training.max_steps=250", "training.eval_every=250", "training.learning_rate=5e-3"]
LINES = [*(source for source, _ in tiny_runs.pairs(40, first=30)), "", "  ", "ab <s> </s>", "ein Bär", "x" * 60]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt something, with two vocabularies."""
    from pytorch_dl.entry import execute

    folder = tmp_path_factory.mktemp("exported")
    text = write_tsv(folder / "text.tsv", 250)
    settings = [*TINY, *BETTER, "data.shared_vocabulary=false", "model.tie_embeddings=decoder"]
    out = folder / "run"
    assert execute(["run", "--src", str(text), "--split", "12", "--out", str(out), "--beam", "2", *settings]) == 0
    return out


@pytest.fixture
def ours(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[int, list[str]]:
    """What `translate` writes for LINES, greedily and with 5 beams."""
    (tmp_path / "in.txt").write_text("\n".join(LINES))
    found = {}
    for beams in (1, 5):
        done = call(capsys, "translate", run, tmp_path / "in.txt", "--beam", beams)
        found[beams] = done.out.splitlines()
        assert done.code == 0
        assert len(found[beams]) == len(LINES)
    return found


@pytest.mark.parametrize("quantization", [None, "int16"])
def test_the_example_in_the_folder_needs_nothing_of_ours_and_says_the_same(
    run: Path,
    ours: dict[int, list[str]],
    quantization: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("ctranslate2")
    given = ["--quantization", quantization] if quantization else []
    done = call(capsys, "export", run, "--to", "ctranslate2", "--out", tmp_path / "out", *given)
    assert done.code == 0, done.err
    assert "comparing on 12 pairs of the run's validation text\nfloat32: log-probabilities of " in done.err
    assert "12 of 12 greedy outputs are the same" in done.err
    assert len(set(ours[1])) > 25  # it has learnt something
    script = tmp_path / "out/translate.py"
    assert "import pytorch_dl" not in script.read_text()
    for beams in (1, 5):
        theirs = subprocess.run(
            [sys.executable, "-I", str(script), str(beams)],
            input="\n".join(LINES),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert theirs.stdout.splitlines() == ours[beams]


def test_safetensors_are_the_run_bit_by_bit(
    run: Path, ours: dict[int, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done = call(capsys, "export", run, "--to", "safetensors", "--out", out)
    assert (done.code, done.out) == (0, "")
    assert {path.name for path in out.iterdir()} == {
        *("README.md", "config.yaml", "export.json", "manifest.json", "model", "tokenizer")
    }
    assert snapshot_of(out / "tokenizer") == snapshot_of(run / "tokenizer")
    assert (out / "config.yaml").read_bytes() == (run / "config.yaml").read_bytes()
    before, after = load_file(run / "model/model.safetensors"), load_file(out / "model/model.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    assert pytorch_dl.load(out).translate(LINES[:5], beam_size=5) == ours[5][:5]
    assert call(capsys, "translate", out, "--text", LINES[0], "--beam", 1).out == f"{ours[1][0]}\n"


def snapshot_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(folder).items()}


def test_an_export_in_safetensors_can_be_exported_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ctranslate2")
    assert call(capsys, "export", run, "--to", "safetensors", "--out", tmp_path / "a").code == 0
    for source, out in ((tmp_path / "a", "b"), (run, "c")):
        assert call(capsys, "export", source, "--to", "ctranslate2", "--out", tmp_path / out).code == 0
    assert (tmp_path / "b/model.bin").read_bytes() == (tmp_path / "c/model.bin").read_bytes()
    versions = json.loads((tmp_path / "b/export.json").read_bytes())["versions"]
    assert set(versions) == {"pytorch-dl", "torch", "tokenizers", "ctranslate2"}


REFUSED = [
    (["--to", "tflite"], 2, "--to: unknown form 'tflite'. Fix: give one of ctranslate2, onnx, safetensors."),
    (
        ["--to", "safetensors", "--quantization", "int8"],
        2,
        "--quantization: got int8, but --to safetensors keeps the weights as they are. "
        "Fix: leave it out, or export to ctranslate2.",
    ),
    (["--to", "ctranslate2", "--quantization", "int4"], 2, "unknown quantization 'int4'. Fix: give one of int8, "),
]


@pytest.mark.parametrize(("given", "code", "line"), REFUSED, ids=[line for _, _, line in REFUSED])
def test_what_cannot_be_exported_is_refused_before_anything_is_done(
    tiny_run: Path, given: list[str], code: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(capsys, "export", tiny_run, *given, "--out", tmp_path / "out")
    assert done.code == code
    assert len(done.err.splitlines()) == 1
    assert done.error_lines[0].startswith(f"pytorch-dl: error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_never_replaced(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(tiny_run)
    done = call(capsys, "export", tiny_run, "--to", "safetensors", "--out", tiny_run)
    assert (done.code, done.error_lines) == (
        2,
        [f"pytorch-dl: error: {tiny_run}: the export would take the place of the run. Fix: choose another --out."],
    )
    done = call(capsys, "export", tiny_run, "--to", "safetensors", "--out", tiny_run.parent)
    assert done.code == 2
    assert snapshot(tiny_run) == before
    done = call(capsys, "export", tmp_path / "none", "--to", "safetensors", "--out", tmp_path / "out")
    assert (done.code, "no such run folder" in done.err) == (4, True)
