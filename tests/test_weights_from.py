"""`--weights-from`: a new training begins with another model's weights, whatever kills it, and says what fitted."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import end, start, together
from safetensors.torch import load_file
from small_trainings import outcome, resume, settings_file, train, wait_for_step
from tiny_runs import TINY, Result, call, copied_run, records, write_tsv

from pytorch_dl import take_weights
from pytorch_dl.building import build_model
from pytorch_dl.errors import CheckpointError
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translator import load

STILL = ["training.max_steps=1", "training.eval_every=1", "training.learning_rate=1e-30", "scheduler.warmup=1"]
UNSAVED = ["training.save_every=1000", "training.eval_every=1000"]


def begin(capsys: pytest.CaptureFixture[str], old: Path, out: Path, *settings: str) -> Result:
    """One step that hardly moves the weights, from those of another run, on its text."""
    text = old.parent / "text.tsv"
    given = ["--src", text, "--split", "12", "--beam", "1", "--out", out, "--weights-from", old]
    return call(capsys, "run", *given, *TINY, *STILL, *settings)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / ckpt.MODEL)


def test_the_same_model_goes_on_from_where_it_was(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    result = begin(capsys, tiny_run, new)
    assert result.code == 0, result.err
    before, after = weights(tiny_run), weights(new)
    assert all(torch.allclose(after[name], before[name], atol=1e-7) for name in before)
    count = len(before)
    numbers = sum(weight.numel() for weight in before.values())
    summary = f"{count} tensors whole, 0 in part, 0 not: {numbers:,} of {numbers:,} numbers; 0 of the other model have"
    assert f"weights taken from {tiny_run}: {summary} no place" in result.err
    assert "taken in part" not in result.err
    assert [row["step"] for row in records(new) if row["kind"] == "train"] == [1]  # it begins at step 0 ...
    state = load_file(new / "checkpoints/step-00000001/optimizer.safetensors")
    assert {float(value) for name, value in state.items() if name.endswith("/step")} == {
        1.0
    }  # ... with a new optimizer


def test_what_does_not_fit_is_said_line_by_line_and_kept(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    result = begin(capsys, tiny_run, new, "model.num_decoder_layers=2", "model.n_heads=4", "model.activation=geglu")
    assert result.code == 0, result.err
    before, after = weights(tiny_run), weights(new)
    absent = [name for name in after if name not in before]
    assert absent
    lines = [f"not taken: {name}: the other model has no such tensor" for name in absent]
    assert sorted(line for line in result.err.splitlines() if line.startswith("not taken")) == sorted(lines)
    different = "model.n_heads is 4 here and 2 there, model.activation is geglu here and swiglu there"
    assert f"warning: {different}: what was taken has another meaning until training has changed it" in result.err
    assert f"{len(before)} tensors whole, 0 in part, {len(absent)} not" in result.err
    told = json.loads((new / "weights_from.json").read_text())
    assert told["run"] == str(tiny_run)
    assert {one["name"] for one in told["tensors"] if not one["taken"]} == {*absent}
    page = (new / "report.html").read_text()
    assert "first weights" in page
    assert str(tiny_run) in page
    assert told["summary"] in page
    assert "first weights" not in (tiny_run / "report.html").read_text()
    verified = call(capsys, "verify", new)
    assert verified.code == 0
    assert "whole    weights_from\n" in verified.out
    line = "ab cd"
    kept = call(capsys, "translate", new / "weights_from", "--text", line)
    assert kept.out == call(capsys, "translate", tiny_run, "--text", line).out


def test_rows_of_known_tokens_and_no_others_are_taken(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, new = tmp_path / "text.tsv", tmp_path / "new"
    text.write_text("".join(f"ab ä{place}\tcd ö{place}\n" for place in range(40)))
    given = ["--src", text, "--split", "12", "--beam", "1", "--out", new, "--weights-from", tiny_run]
    result = call(capsys, "run", *given, *TINY, *STILL, "data.tokenizer_name=bpe", "data.vocab_size=320")
    assert result.code == 0, result.err
    old, now = load(tiny_run), load(new)
    ours, theirs = now.tokenizers.src.ids(), old.tokenizers.src.ids()
    common = ours.keys() & theirs.keys()
    assert 4 + 256 <= len(common) < len(ours)
    note = (
        f"taken in part: src_embedding.weight: {len(common)} of {len(ours)} rows, of tokens that both vocabularies have"
    )
    assert note in result.err.splitlines()
    for token in common:
        row = old.model.src_embedding.weight[theirs[token]]
        assert torch.allclose(now.model.src_embedding.weight[ours[token]], row, atol=1e-7)
    again = call(
        capsys, "run", *given[:-3], tmp_path / "kept", *given[-2:], *TINY, *STILL,
        f"data.tokenizer_name={tiny_run / 'tokenizer'}",
    )  # fmt: skip
    assert again.code == 0, again.err
    assert "taken in part" not in again.err
    assert load(tmp_path / "kept").tokenizers.src.fingerprint() == old.tokenizers.src.fingerprint()


def test_an_unfinished_run_and_an_export_give_their_weights_too(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = copied_run(tiny_run, tmp_path)
    shutil.rmtree(unfinished / "model")
    export = tmp_path / "export"
    assert call(capsys, "export", tiny_run, "--to", "safetensors", "--out", export).code == 0
    for place, other in (("finished", tiny_run), ("unfinished", unfinished), ("exported", export)):
        given = ["--src", tmp_path / "text.tsv", "--split", "12", "--out", tmp_path / place, "--beam", "1"]
        assert call(capsys, "run", *given, "--weights-from", other, *TINY, *STILL).code == 0
    first = weights(tmp_path / "finished")
    for place in ("unfinished", "exported"):
        assert all(torch.equal(first[name], weight) for name, weight in weights(tmp_path / place).items())


def flipped(run: Path) -> None:
    path = run / "model" / ckpt.MODEL
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def untrained(run: Path) -> None:
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints")


def without_configuration(run: Path) -> None:
    (run / "config.yaml").unlink()


def linked(run: Path) -> None:
    os.rename(run / "model" / ckpt.MODEL, run.parent / "elsewhere")
    (run / "model" / ckpt.MODEL).symlink_to(run.parent / "elsewhere")


REFUSED: list[tuple[Callable[[Path], object], list[str], str]] = [
    (
        lambda run: None,
        ["model.d_model=32"],
        "none of its weights fits into the model: model.d_model is 32 here and 16 there. Fix: give the model the same",
    ),
    (shutil.rmtree, [], "no such run folder"),
    (without_configuration, [], "is not a run folder: it has no config.yaml"),
    (untrained, [], "the run has no trained model yet"),
    (flipped, [], "model.safetensors does not match its checksum"),
    (linked, [], "is not a plain file, but a link, a pipe or a device"),
]


@pytest.mark.parametrize(("spoil", "settings", "told"), REFUSED, ids=[told[:30] for _, _, told in REFUSED])
def test_what_gives_nothing_is_refused_before_anything_is_begun(
    spoil: Callable[[Path], object],
    settings: list[str],
    told: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = copied_run(tiny_run, tmp_path)
    spoil(old)
    result = begin(capsys, old, tmp_path / "new", *settings)
    assert result.code == 4
    assert told in result.error_lines[0]
    assert not (tmp_path / "new").exists()


@pytest.fixture
def old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run on other text, with fewer layers and another vocabulary."""
    out, text = tmp_path / "old", write_tsv(tmp_path / "before.tsv", 20)
    text.write_text(text.read_text().replace("a", "ä"))
    given = ["--src", text, "--split", "5", "--beam", "1", "--out", out]
    assert call(capsys, "run", *given, *TINY, "training.max_steps=6", "training.eval_every=6").code == 0
    return out


def test_a_run_that_is_killed_before_its_first_checkpoint_begins_with_the_same_weights(
    old: Path, tmp_path: Path
) -> None:
    config = settings_file(tmp_path)
    more = ["model.num_encoder_layers=2", "data.tokenizer_name=bpe", "data.vocab_size=320", *UNSAVED]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    (done,) = together(1, train(config, straight, "--weights-from", str(old), *more))
    assert done.code == 0, done.err
    assert "not taken: encoder_layers.1." in done.err
    assert "taken in part: src_embedding.weight" in done.err
    (process,) = start(1, train(config, killed, "--weights-from", str(old), *more))
    wait_for_step(killed, 5)
    process.send_signal(signal.SIGKILL)
    end([process])
    assert not ckpt.checkpoints(killed / "checkpoints")
    shutil.rmtree(old)
    (again,) = together(1, resume(killed))
    assert again.code == 0, again.err
    assert outcome(killed) == outcome(straight)
    assert [line for line in again.err.splitlines() if "weights taken" in line] == [
        line for line in done.err.splitlines() if "weights taken" in line
    ]
    (plain,) = together(1, train(config, tmp_path / "plain", *more))
    assert plain.code == 0
    assert outcome(tmp_path / "plain") != outcome(straight)


def test_several_processes_begin_with_the_same_weights(old: Path, tmp_path: Path) -> None:
    config = settings_file(tmp_path)
    outcomes = []
    for count in (1, 2):
        run = tmp_path / f"of {count}"
        ended = together(count, train(config, run, "--weights-from", str(old), "training.max_steps=12"))
        assert [one.code for one in ended] == [0] * count, ended
        assert [one.err.count("weights taken from") for one in ended] == [1, 0][:count]
        outcomes.append(outcome(run))
    assert outcomes[0] == outcomes[1]


def test_a_run_goes_on_from_its_checkpoints_without_taking_weights_again(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begin(capsys, tiny_run, tmp_path / "new").code == 0
    shutil.rmtree(tmp_path / "new" / "model")
    shutil.rmtree(tmp_path / "new" / "weights_from")
    result = call(capsys, "resume", tmp_path / "new")
    assert result.code == 0, result.err
    assert "weights taken" not in result.err


def begun(run: Path) -> None:
    """As a kill right after the beginning leaves it."""
    for name in ("model", "checkpoints"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda run: shutil.rmtree(run / "weights_from"), "manifest.json is missing"),
        (lambda run: flipped(run / "weights_from"), "model/model.safetensors does not match its checksum"),
        (
            lambda run: (run / "weights_from.json").write_text("{}"),
            "weights_from.json: does not tell of the weights beside it",
        ),
    ],
    ids=["gone", "flipped", "no record"],
)
def test_kept_weights_that_are_damaged_are_never_replaced_by_random_ones(
    spoil: Callable[[Path], object],
    told: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    new = tmp_path / "new"
    assert begin(capsys, tiny_run, new).code == 0
    begun(new)
    spoil(new)
    if "beside" not in told:
        assert call(capsys, "verify", new).code == 4
    result = call(capsys, "resume", new)
    assert result.code == 4
    assert told in result.error_lines[0]


def test_a_beginning_that_was_killed_leaves_nothing_to_the_next_one(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert begin(capsys, tiny_run, new).code == 0
    begun(new)
    (new / "config.yaml").unlink()  # which is written last
    assert begin(capsys, tiny_run, new).code == 0
    begun(new)
    (new / "config.yaml").unlink()
    given = ["--src", tiny_run.parent / "text.tsv", "--split", "12", "--beam", "1", "--out", new]
    result = call(capsys, "run", *given, *TINY, *STILL)
    assert result.code == 0, result.err
    assert "weights taken" not in result.err
    assert not RunFolder(new).weights_taken.exists()
    assert not torch.allclose(
        weights(new)["src_embedding.weight"], weights(tiny_run)["src_embedding.weight"], atol=1e-3
    )


def test_in_python(tiny_run: Path, tmp_path: Path) -> None:
    old, said = load(tiny_run), list[str]()
    config = RunFolder(tiny_run).read_config().update(model={"num_encoder_layers": 2}, system={"seed": 7})
    model = build_model(config, old.tokenizers)
    state = torch.get_rng_state()
    found = take_weights(model, old.tokenizers, tiny_run, say=said.append)
    assert torch.equal(torch.get_rng_state(), state)
    theirs, ours = ckpt.model_weights(old.model), ckpt.model_weights(model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert said == [*found.lines(), f"weights taken from {tiny_run}: {found.summary()}"]
    assert len(said) > 1
    wide = build_model(config.update(model={"d_model": 32}), old.tokenizers)
    with pytest.raises(CheckpointError, match="none of its weights fits into the model"):
        take_weights(wide, old.tokenizers, tiny_run)
