"""`compare` from the command line: what it leaves, that it goes on, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import TINY, call, command, environment, snapshot, write_tsv

from pytorch_dl.comparing import comparison
from pytorch_dl.comparing.ground import Ground, Prepared
from pytorch_dl.config import Config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.entry import execute
from pytorch_dl.experiments.costs import Cost
from pytorch_dl.files import TEMPORARY

VARY = ["--vary", "model.activation=relu,swiglu"]
ARMS = ("01-activation=relu", "02-activation=swiglu")
KILLED_WHEN_IT_HAS_SAVED = """
import os, signal, sys
from pytorch_dl import entry
from pytorch_dl.training import checkpoint

def save(*arguments, _save=checkpoint.save_checkpoint, **named):
    _save(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save_checkpoint = save
sys.argv[1:] = ["resume", sys.argv[1]]
entry.main()
"""
HASTE = ["--seeds", "2", "--beam", "1", "training.learning_rate=1e-2"]


def words(folder: Path, out: str = "done", *more: object) -> list[str]:
    given = ["compare", *TINY, *HASTE, *VARY, "--src", folder / "text.tsv", "--split", "12", "--out", folder / out]
    return [*map(str, given), *map(str, more)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds a text, and `done`, a finished comparison on it: two arms, two seeds."""
    folder = tmp_path_factory.mktemp("comparison")
    write_tsv(folder / "text.tsv", 120)
    assert execute(words(folder)) == 0
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same, to spoil; the text is read where it was."""
    shutil.copytree(finished / "done", tmp_path / "done")
    return tmp_path


class TestWhatIsLeft:
    def test_files(self, finished):
        names = {path.name for path in (finished / "done").iterdir()} - {".lock"}
        assert names == {
            *("comparison.json", "data", "tokenizers", "cache", "runs"),
            *("results.txt", "results.json", "results.png", "costs.json"),
        }
        runs = finished / "done" / "runs"
        assert sorted(path.name for path in runs.iterdir()) == list(ARMS)
        assert all((runs / arm / f"seed-{seed}" / "report.json").exists() for arm in ARMS for seed in (1, 2))

    def test_all_trainings_share_text_tokenizers_and_stores(self, finished):
        runs = [finished / "done" / "runs" / arm / f"seed-{seed}" for arm in ARMS for seed in (1, 2)]
        assert len({(run / "data.json").read_text() for run in runs}) == 1
        assert len({(run / "tokenizer" / "tokenizer.json").read_text() for run in runs}) == 1
        assert not any((run / "cache").exists() for run in runs)
        assert len(list((finished / "done" / "cache").glob("*/meta.json"))) == 2  # training and validation text
        assert len(list((finished / "done" / "tokenizers").iterdir())) == 1
        assert len((finished / "done" / "data" / "val.jsonl").read_text().splitlines()) == 12

    def test_trainings_differ_in_arm_and_seed(self, finished):
        found = [
            (config["model"]["activation"], config["system"]["seed"])
            for arm in ARMS
            for seed in (1, 2)
            for config in [_config(finished / "done" / "runs" / arm / f"seed-{seed}")]
        ]
        assert found == [("relu", 1), ("relu", 2), ("swiglu", 1), ("swiglu", 2)]
        weights = {(path.read_bytes()) for path in (finished / "done" / "runs").glob("*/*/model/model.safetensors")}
        assert len(weights) == 4

    def test_scores_are_those_of_the_reports(self, finished):
        found = json.loads((finished / "done" / "results.json").read_text())
        assert found["metric"] == "exact match" and "few words" in found["why_metric"]
        rows = [row for row in found["scores"] if row["metric"] == "chrF2"]
        for row, arm in zip(rows, ARMS, strict=True):
            reports = [
                json.loads((finished / "done" / "runs" / arm / f"seed-{seed}" / "report.json").read_text())
                for seed in (1, 2)
            ]
            wanted = [next(s["value"] for s in report["scores"] if s["name"] == "chrF2") for report in reports]
            assert row["by_seed"] == pytest.approx(wanted) and row["value"] == pytest.approx(sum(wanted) / 2)

    def test_terms_are_said(self, finished):
        text = (finished / "done" / "results.txt").read_text()
        found = json.loads((finished / "done" / "results.json").read_text())
        relu, swiglu = (arm["parameters"] for arm in found["arms"])
        assert text.startswith("2 arms x 2 seeds, scored on the validation text (which chose the weights as well")
        assert ", 12 pairs, beam 1\n" in text
        assert "equal steps: 20 each (" in text
        assert f"parameters: {relu:,} to {swiglu:,}, a difference of at most " in text
        for arm, count in zip(ARMS, (relu, swiglu), strict=True):
            log = (finished / "done" / "runs" / arm / "seed-1.log").read_text()
            assert f"model: {count:,} parameters" in log


def test_goes_on_where_it_was_moved_to_and_from_another_working_directory(tmp_path, capsys, monkeypatch):
    """With two corpora, whose places are in one setting, and a test text; killed when it had saved and not ended."""
    for name, first, count in (("text", 0, 60), ("more", 60, 40), ("test", 100, 8)):
        write_tsv(tmp_path / "here" / f"{name}.tsv", count, first=first)
    (tmp_path / "there").mkdir()
    texts = ["--src", tmp_path / "here" / "text.tsv", "--test-src", tmp_path / "here" / "test.tsv", "--split", "12"]
    given = [*TINY, *VARY, *texts, "--seeds", "1", f"data.corpora=[{{src: {tmp_path / 'here' / 'more.tsv'}}}]"]
    monkeypatch.chdir(tmp_path / "here")
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "_command", lambda run: [sys.executable, "-c", KILLED_WHEN_IT_HAS_SAVED, str(run)])
        assert call(capsys, "compare", *given, "--out", "done").code == 6
    (run,) = Path("done/runs").glob("*/*/checkpoints")
    assert list(run.iterdir()) and not (run.parent / "model").exists()
    Path("done").rename(tmp_path / "there" / "moved")
    monkeypatch.chdir(tmp_path / "there")
    done = call(capsys, "compare", *given, "--out", "moved")
    assert done.code == 0 and "scored on the test text, 8 pairs" in done.out, done.err
    assert not Path("done").exists() and not (tmp_path / "here" / "done").exists()


def _config(run: Path) -> dict:
    import yaml

    return yaml.safe_load((run / "config.yaml").read_text())


class TestTheSameCommandAgain:
    def test_trains_nothing_and_says_the_same(self, finished, copied, capsys):
        before = snapshot(copied / "done" / "runs")
        done = call(capsys, *words(finished, copied / "done"))
        assert done.code == 0 and "4 of 4 trainings are done already" in done.err
        assert snapshot(copied / "done" / "runs") == before
        assert done.out.startswith((finished / "done" / "results.txt").read_text())

    def test_json(self, finished, copied, capsys):
        found = json.loads(call(capsys, *words(finished, copied / "done", "--json")).out)
        assert len(found["costs"]) == 2 and found["verdict"] in (copied / "done" / "results.txt").read_text()

    def test_another_metric_may_decide(self, finished, copied, capsys):
        done = call(capsys, *words(finished, copied / "done", "--metric", "chrf"))
        assert done.code == 0 and "chrF2 decides: asked for" in done.out

    @pytest.mark.parametrize(
        ("more", "difference"),
        [
            (["model.d_model=32"], "model.d_model is 16 there, 32 here"),
            (["--seeds", "3"], "seeds is 2 there, 3 here"),
            (["--budget", "5m"], "budget is None there, '5m' here"),
            (["--vary", "model.bias=true,false"], "its arms are activation=relu, activation=swiglu, here "),
        ],
    )  # fmt: skip
    def test_of_another_comparison_is_refused(self, finished, copied, capsys, more, difference):
        before = snapshot(copied)
        refused = call(capsys, *words(finished, copied / "done", *more))
        assert refused.code == 4 and len(refused.error_lines) == 1
        assert difference in refused.err and "Fix: give the same command again, or choose another --out." in refused.err
        assert {**snapshot(copied), "done/.lock": None} == {**before, "done/.lock": None}

    def test_on_another_text_is_refused(self, finished, copied, capsys):
        text = write_tsv(copied / "text.tsv", 119)
        done = ["compare", *TINY, *HASTE, *VARY, "--src", text, "--split", "12", "--out", copied / "done"]
        refused = call(capsys, *done)
        assert refused.code == 4 and "the train text is another" in refused.err

    def test_where_a_training_read_another_text_is_refused(self, finished, copied, capsys):
        """As when the text was another for a while, and is again what it was."""
        run = copied / "done" / "runs" / ARMS[1] / "seed-2"
        data = json.loads((run / "data.json").read_text())
        data["val"][0]["sha256"] = "0" * 64
        (run / "data.json").write_text(json.dumps(data))
        refused = call(capsys, *words(finished, copied / "done"))
        assert refused.code == 3 and len(refused.error_lines) == 1
        assert f"{run}: it was trained on another text. Fix: delete this run folder." in refused.err


class TestRefused:
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--vary", "model.activaton=a,b"], "unknown setting 'model.activaton', did you mean 'model.activation'?"),
            (["--metric", "bleau"], "unknown metric 'bleau', did you mean 'bleu'?"),
            (["--budget", "5"], "--budget: expected a time such as 5m"),
            (["--budget", "5 steps", "--vary", "training.max_steps=30,40"], "arms differ in what --budget makes equal"),
            (["--seeds", "0"], "--seeds"),
        ],
    )
    def test_words(self, tmp_path, capsys, more, message):
        write_tsv(tmp_path / "text.tsv")
        refused = call(capsys, *words(tmp_path, "out", *more))
        assert refused.code == 2 and message in refused.err and len(refused.error_lines) == 1
        assert not (tmp_path / "out").exists()

    def test_without_a_text_to_score_on(self, tmp_path, capsys):
        refused = call(capsys, "compare", *VARY, "--src", write_tsv(tmp_path / "text.tsv"), "--out", tmp_path / "out")
        assert refused.code == 2 and "no text to score the arms on" in refused.err

    def test_what_a_killed_write_left_is_no_hindrance(self, tmp_path):
        (tmp_path / f"{TEMPORARY}comparison.json.1").write_text("{")
        (tmp_path / ".lock").touch()
        Ground(tmp_path, print).refuse_other_folder()

    def test_a_folder_of_something_else(self, tmp_path, capsys):
        write_tsv(tmp_path / "text.tsv")
        refused = call(capsys, *words(tmp_path, "."))
        assert refused.code == 2 and "holds something else" in refused.err

    def test_under_torchrun(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        write_tsv(tmp_path / "text.tsv")
        refused = call(capsys, *words(tmp_path))
        assert refused.code == 2 and "without torchrun" in refused.err

    def test_faulty_text_leaves_no_comparison(self, tmp_path, capsys):
        (tmp_path / "text.tsv").write_text("a\tb\nc\n")
        refused = call(capsys, *words(tmp_path))
        assert refused.code == 3 and not (tmp_path / "done" / "comparison.json").exists()


class TestSchedulesThatTimeCutShort:
    def told(self, rates: list[list[float]], *settings: str) -> str | None:
        """What is said of arms with these learning rates at their ends, of 0.01 at most."""
        config = with_overrides(Config(), ["training.learning_rate=0.01", *settings])
        tokenizers = TokenizerPair.__new__(TokenizerPair)  # not looked at
        arms = {str(n): Prepared(config, tokenizers, {}, 1) for n in range(len(rates))}
        costs = [Cost(str(n), 1, [9], [9], found, None, [9.0], [], []) for n, found in enumerate(rates)]
        return comparison._unfinished(arms, costs)

    def test_are_told_by_the_highest_rate(self):
        told = self.told([[0.0001, 0.0005], [0.004, 0.0]], "training.time_limit=60")
        assert told and told.startswith("time was up while the learning rate stood at up to 40% of its highest")

    @pytest.mark.parametrize(
        ("rate", "settings"),
        [
            (0.0009, ["training.time_limit=60"]),
            (0.004, []),
            (0.01, ["training.time_limit=60", "scheduler.name=constant"]),
        ],
    )
    def test_else_nothing_is_said(self, rate, settings):
        assert self.told([[0.0], [rate]], *settings) is None


@pytest.mark.slow
def test_killed_twice_and_interrupted_it_ends_with_the_same_bytes(finished, tmp_path):
    """The finished one was left alone. Kills hit the comparison alone: its trainings must not live on."""
    arguments = words(finished, tmp_path / "killed", "training.max_steps=20", "training.save_every=3")
    runs = tmp_path / "killed" / "runs"
    moments = [runs / ARMS[0] / "seed-1", runs / ARMS[1] / "seed-1", runs / ARMS[1] / "seed-2"]
    for run, stop in zip(moments, (signal.SIGKILL, signal.SIGKILL, signal.SIGINT), strict=True):
        process = subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 300
        while not _steps(run) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, stop)
        told = process.communicate()[1]
        assert process.returncode == (75 if stop == signal.SIGINT else -signal.SIGKILL), told
        assert not (run / "report.json").exists()
    assert "interrupted, and saved" in told
    subprocess.run(command(*arguments), env=environment(), check=True, capture_output=True)
    for name in ("results.txt", "results.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (finished / "done" / name).read_bytes()


def _steps(run: Path) -> int:
    record = run / "metrics.jsonl"
    return len(record.read_bytes().splitlines()) if record.exists() else 0
