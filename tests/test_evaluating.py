"""`evaluate`: other systems beside, JSON, COMET, and where word frequencies come from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import call, pairs, write_tsv

from pytorch_dl import evaluating
from pytorch_dl.evaluation.metrics import bleu, chrf, chrf_plus_plus, ter
from pytorch_dl.scoring.randomisation import p_value

COMET = """
def download_model(name):
    return name
class Model:
    def predict(self, data, batch_size, gpus):
        return {"scores": [float(line["mt"] == line["ref"]) for line in data]}
def load_from_checkpoint(path):
    return Model()
"""
GREEDY = ["--beam", "1"]


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def told(capsys, *options: object) -> dict:
    """What --json prints, which is one object of strict JSON and nothing else."""
    result = call(capsys, "evaluate", *options, *GREEDY, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out, parse_constant=reject)


@pytest.fixture
def text(tmp_path: Path) -> tuple[Path, Path]:
    """Sources and references of six words each, so that BLEU counts."""
    lines = pairs(30, first=100)
    paths = tmp_path / "test.src", tmp_path / "test.ref"
    paths[0].write_text("".join(f"{a} {b}\n" for (a, _), (b, _) in zip(lines, lines[::-1], strict=True)))
    paths[1].write_text("".join(f"{a} {b}\n" for (_, a), (_, b) in zip(lines, lines[::-1], strict=True)))
    return paths


@pytest.fixture
def given(tiny_run, text) -> list[object]:
    return [tiny_run, "--src", text[0], "--ref", text[1]]


@pytest.fixture
def half_right(text, monkeypatch) -> list[str]:
    """Translations in place of the tiny model's, which is never right."""
    lines = text[1].read_text().splitlines()
    found = [" ".join(["xy", *line.split()[1:]]) if number % 2 else line for number, line in enumerate(lines)]
    monkeypatch.setattr(evaluating, "translate", lambda *_: found)
    return found


@pytest.mark.usefixtures("half_right")
def test_scores_are_those_of_sacrebleu(given, text, tmp_path, capsys):
    found = told(capsys, *given, "--save", tmp_path / "out.txt")
    values = {score["name"]: score for score in found["scores"]}
    command = [sys.executable, "-m", "sacrebleu", text[1], "-i", tmp_path / "out.txt", "-w", "10", "--confidence", "-m"]
    shown = json.loads(subprocess.check_output([*command, "bleu", "chrf", "ter"]))
    for theirs in shown:
        ours = values[theirs["name"]]
        assert ours["value"] == pytest.approx(theirs["score"], abs=1e-9) and 5 < ours["value"] < 99
        assert (ours["high"] - ours["low"]) / 2 == pytest.approx(theirs["confidence_var"], abs=1e-4)
    assert [*values][:4] == ["BLEU", "chrF2", "chrF2++", "TER"] and [*values][-1] == "perplexity"
    assert all(score["low"] <= score["value"] <= score["high"] for score in found["scores"])
    assert (found["pairs"], found["beam_size"], found["comparisons"]) == (30, 1, [])
    assert [part["counted_in"] for part in found["breakdowns"]] == [None, "the training text"]


@pytest.mark.usefixtures("half_right")
def test_another_system_is_compared(given, text, tmp_path, capsys):
    assert call(capsys, "evaluate", *given, *GREEDY, "--save", tmp_path / "same.txt").code == 0
    ours, references = ((path).read_text().splitlines() for path in (tmp_path / "same.txt", text[1]))
    perfect = shutil.copy(text[1], tmp_path / "perfect.txt")
    found = told(capsys, *given, "--compare", perfect, "--compare", tmp_path / "same.txt")
    rows = {(row["system"], row["metric"]): row for row in found["comparisons"]}
    names = [score["name"] for score in found["scores"]][:-1]
    assert [*rows] == [(str(path), name) for name in names for path in (perfect, tmp_path / "same.txt")]
    for metric in (bleu, chrf, chrf_plus_plus, ter):
        scores = metric(ours, references), metric(references, references)
        better, same = (rows[str(path), scores[0].name] for path in (perfect, tmp_path / "same.txt"))
        assert better["p_value"] == p_value(*scores) and better["verdict"] == "better"
        assert better["difference"] == scores[1].value - scores[0].value
        assert (same["p_value"], same["difference"], same["verdict"]) == (1.0, 0.0, "no difference shown")
    told_people = call(capsys, "evaluate", *given, *GREEDY, "--compare", tmp_path / "same.txt").out.splitlines()
    assert (
        f"no difference shown between {tmp_path / 'same.txt'} and {given[0]} in BLEU (+0.00, p = 1.00)" in told_people
    )


def test_the_same_twice_is_the_same(given, capsys, tmp_path):
    (tmp_path / "other.txt").write_text("ab\n" * 30)
    first, again = (told(capsys, *given, "--compare", tmp_path / "other.txt") for _ in "ab")
    assert first == again


def test_without_ter(given, capsys):
    assert "TER" in {score["name"] for score in told(capsys, *given)["scores"]}
    assert "TER" not in {score["name"] for score in told(capsys, *given, "--no-ter")["scores"]}


def test_of_long_texts_ter_is_announced(given, capsys, monkeypatch):
    monkeypatch.setattr(evaluating, "PATIENCE", 0.0)
    assert "TER may take 0 s on texts so long; --no-ter leaves it out" in call(capsys, "evaluate", *given, *GREEDY).err
    assert "TER" not in call(capsys, "evaluate", *given, *GREEDY, "--no-ter").err


def test_of_long_texts_the_end_of_a_run_leaves_ter_out(tiny_run, tmp_path, capsys, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run/report.json").unlink()
    monkeypatch.setattr(evaluating, "LIMIT", 0.0)
    result = call(capsys, "resume", tmp_path / "run")
    assert result.code == 0 and "TER is left out: of texts so long it may take 0 s" in result.err
    names = {score["name"] for score in json.loads((tmp_path / "run/report.json").read_text())["scores"]}
    assert "TER" not in names and "chrF2++" in names


def test_the_report_of_a_run_has_intervals_and_breakdowns(tiny_run):
    report = json.loads((tiny_run / "report.json").read_text())
    assert all(row["low"] <= row["value"] <= row["high"] for row in report["scores"])
    assert [part["by"] for part in report["breakdowns"]] == ["source length", "frequency of the rarest source word"]
    assert report["breakdowns"][1]["counted_in"] == "the training text"
    assert "| score | value | 95 % interval | signature |" in (tiny_run / "report.md").read_text()


@pytest.mark.parametrize("spoil", ["gone", "changed", "moved"])
def test_without_the_training_text_frequencies_are_of_the_sources(spoil, tiny_run, text, tmp_path, capsys):
    run, training = tmp_path / "run", shutil.copy(tiny_run.parent / "text.tsv", tmp_path / "text.tsv")
    shutil.copytree(tiny_run, run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_run.parent / "text.tsv"), str(training)))
    options = ["evaluate", run, "--src", text[0], "--ref", text[1], *GREEDY]
    assert "word frequencies" not in call(capsys, *options).err
    if spoil == "gone":
        training.unlink()
    elif spoil == "changed":
        training.write_text(training.read_text() + "a\tb\n")
    else:
        (run / "data.json").unlink()
    why = {"gone": "no such file", "changed": "has changed since the run", "moved": "does not hold what tells its text"}
    result = call(capsys, *options)
    assert result.code == 0
    assert "word frequencies are counted in the source text itself, for want of the training text: " in result.err
    assert why[spoil] in result.err
    assert told(capsys, *options[1:-2])["breakdowns"][1]["counted_in"] == "the source text itself"


@pytest.mark.parametrize("changed", ["text.tsv", "test.tsv"])
def test_a_run_is_not_evaluated_on_another_text_than_it_was_validated_on(changed, tiny_run, tmp_path, capsys):
    """With another text another part of it is held out, which the run may have been trained on; a test text is free."""
    run, training = tmp_path / "run", shutil.copy(tiny_run.parent / "text.tsv", tmp_path / "text.tsv")
    shutil.copytree(tiny_run, run)
    (run / "report.json").unlink()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny_run.parent / "text.tsv"), str(training)))
    write_tsv(tmp_path / "test.tsv", 5)
    if changed == "test.tsv":
        config.write_text(config.read_text().replace("test_data_path: null", f"test_data_path: {tmp_path}/test.tsv"))
    (tmp_path / changed).write_text((tmp_path / changed).read_text() + "ab\tba\n")
    result = call(capsys, "resume", run)
    assert result.code == 0, result.err
    told = f"not evaluated: {training} (val side): has changed since the run. Fix: restore the text."
    assert (told in result.err) == (changed == "text.tsv"), result.err
    assert (run / "report.json").exists() == (changed == "test.tsv")


@pytest.mark.usefixtures("half_right")
def test_comet_is_one_score_more(given, text, tmp_path, capsys, monkeypatch):
    (tmp_path / "comet.py").write_text(COMET)
    monkeypatch.chdir(tmp_path)
    options = ["--comet", sys.executable, "--comet-model", "some/model", "--compare", text[1]]
    found = told(capsys, *given, *options)
    (score,) = [score for score in found["scores"] if score["name"] == "COMET"]
    assert score["value"] == 50.0
    exact = next(score for score in found["scores"] if score["name"] == "exact match")
    assert score["signature"] == "nrefs:1|model:some/model|version:unknown"
    assert {key: score[key] for key in ("value", "low", "high")} == {
        key: exact[key] for key in ("value", "low", "high")
    }
    compared = {row["metric"]: row for row in found["comparisons"]}
    assert compared["COMET"]["p_value"] == compared["exact match"]["p_value"]
    assert any(score["name"] == "COMET" for score in found["breakdowns"][0]["buckets"][0]["scores"])


def test_what_is_wrong_is_told_before_the_translation(given, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluating, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "short.txt").write_text("ab\n" * 29)
    result = call(capsys, "evaluate", *given, "--compare", tmp_path / "short.txt")
    assert (result.code, result.out) == (3, "")
    assert f"{tmp_path / 'short.txt'}: 29 translations for 30 pairs. Fix: give one translation a line" in result.err
    result = call(capsys, "evaluate", *given, "--compare", tmp_path / "none.txt")
    assert result.code == 3 and f"{tmp_path / 'none.txt'}: no such file" in result.err
    monkeypatch.chdir(tmp_path)
    result = call(capsys, "evaluate", *given, "--comet", sys.executable)
    assert result.code == 2 and f"--comet {sys.executable}: COMET is not installed there. Fix: give" in result.err
