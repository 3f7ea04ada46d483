"""Each command in each of its forms: exit code, what it prints, and what it leaves."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny_runs import TINY, Result, call, child, command, environment, pairs, records, snapshot, write_tsv

import pytorch_dl
from pytorch_dl.config import get_config, load_config
from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.reporter import Reporter

SHORT = [*TINY, "training.max_steps=2", "scheduler.warmup=1"]
COMMANDS = (
    "run",
    "train",
    "resume",
    "check",
    "translate",
    "evaluate",
    "report",
    "compare",
    "demo",
    "config",
    "config show",
    "config schema",
)
FORTY_FIVE_MINUTES = 2700.0


def two_files(folder: Path, name: str, count: int, *, first: int = 0) -> tuple[Path, Path]:
    paths = folder / f"{name}.src", folder / f"{name}.tgt"
    for path, side in zip(paths, zip(*pairs(count, first=first), strict=True), strict=True):
        path.write_text("".join(f"{text}\n" for text in side))
    return paths


def weights(run: Path) -> bytes:
    return (run / "model" / ckpt.MODEL).read_bytes()


def typed(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_each_command(self, name, capsys):
        result = call(capsys, *name.split(), "--help")
        assert result.code == 0
        assert f"pytorch-dl {name}" in result.out
        assert not result.err

    def test_lists_every_command(self, capsys):
        result = call(capsys, "--help")
        assert result.code == 0
        assert all(f" {name.split()[0]} " in result.out for name in COMMANDS)
        assert "--debug" in result.out

    def test_stands_in_for_a_missing_command(self, capsys):
        result = call(capsys)
        assert (result.code, result.err) == (2, "")
        assert "Usage: pytorch-dl" in result.out

    @pytest.mark.parametrize("name", [name for name in pytorch_dl.__all__ if name != "__version__"])
    def test_public_names_are_what_they_say(self, name):
        code = f"from pytorch_dl import {name}; assert {name}.__name__ == '{name}' and callable({name})"
        subprocess.run([sys.executable, "-c", code], check=True, env=environment())

    def test_loads_no_torch(self):
        code = "import pytorch_dl.entry, sys; assert 'torch' not in sys.modules, 'help would be slow'"
        subprocess.run([sys.executable, "-c", code], check=True, env=environment())


class TestConfig:
    def test_names_all_templates(self, capsys):
        assert call(capsys, "config", "show").out.split() == list(TEMPLATES)

    @pytest.mark.parametrize("name", TEMPLATES)
    @pytest.mark.parametrize("form", ["yaml", "json"])
    def test_shows_what_config_reads(self, name, form, tmp_path, capsys):
        result = call(capsys, "config", "show", name, *(["--json"] if form == "json" else []))
        file = tmp_path / f"config.{form}"
        file.write_text(result.out)
        assert result.code == 0
        assert load_config(file) == get_config(name)

    def test_schema_has_each_setting_with_its_meaning(self, capsys):
        schema = json.loads(call(capsys, "config", "schema").out)
        for section in schema["properties"].values():
            settings = schema["$defs"][section["$ref"].rpartition("/")[2]]["properties"]
            assert settings
            assert all(setting.get("description") for setting in settings.values())


class TestRun:
    def test_leaves_everything(self, tiny_run):
        left = {path.name for path in tiny_run.iterdir()} - {".lock"}
        assert left == {
            *("config.yaml", "begun.yaml", "data.json", "environment.json", "evaluation.json"),
            *("metrics.jsonl", "timing.jsonl"),
            *("tokenizer", "cache", "checkpoints", "model"),
            *("report.json", "report.md", "report.html", "validation.translations.txt", "validation.compared.tsv"),
        }
        report = json.loads((tiny_run / "report.json").read_text())
        assert (report["text"], report["pairs"], report["beam_size"]) == ("validation", 12, 2)
        translations = (tiny_run / "validation.translations.txt").read_text().splitlines()
        header, *rows = (line.split("\t") for line in (tiny_run / "validation.compared.tsv").read_text().splitlines())
        assert header == ["answer", "source", "reference", "translation"]
        assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)  # wrong ones first
        assert all((row[0] == "right") == (row[2] == row[3]) for row in rows)
        assert len(translations) == 12 and sorted(row[3] for row in rows) == sorted(translations)
        assert [record["step"] for record in records(tiny_run) if record["kind"] == "validation"] == [10, 20]

    def test_two_files_with_validation_and_test_text(self, tmp_path, capsys):
        (src, tgt), (val_src, val_tgt) = two_files(tmp_path, "train", 60), two_files(tmp_path, "val", 10, first=60)
        test_src, test_tgt = two_files(tmp_path, "test", 7, first=80)
        texts = ["--src", src, "--tgt", tgt, "--val-src", val_src, "--val-tgt", val_tgt]
        more = ["--test-src", test_src, "--test-tgt", test_tgt]
        result = call(capsys, "run", *texts, *more, "--out", tmp_path / "run", *SHORT)
        assert result.code == 0, result.err
        assert json.loads((tmp_path / "run/report.json").read_text())["pairs"] == 7
        assert (tmp_path / "run/test.translations.txt").read_text().count("\n") == 7
        assert "Test text" in result.err
        data = load_config(tmp_path / "run/config.yaml").data
        assert (data.train_tgt_path, data.val_data_path) == (str(tgt), str(val_src))

    @pytest.mark.parametrize("form", ["tsv", "csv", "jsonl", "parquet"])
    def test_one_file_of_each_form(self, form, tmp_path, capsys):
        file = tmp_path / f"text.{form}"
        if form == "tsv":
            write_tsv(file)
        elif form == "csv":
            with open(file, "w", newline="") as out:
                csv.writer(out).writerows([("src", "tgt"), *pairs(60)])
        elif form == "jsonl":
            file.write_text("".join(json.dumps({"src": src, "tgt": tgt}) + "\n" for src, tgt in pairs(60)))
        else:
            src, tgt = zip(*pairs(60), strict=True)
            pa = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(pa.table({"src": src, "tgt": tgt}), file)
        result = call(capsys, "run", "--src", file, "--split", 12, "--out", tmp_path / "run", *SHORT)
        assert result.code == 0, result.err
        assert result.err.count("tokenizer: char for both sides with 260 tokens, from 48 of 48 pairs") == 1
        assert "Training text, with the 12 pairs that are held out\n" in result.err
        assert re.search(
            r"kept for use: the weights of step \d+ of \d+, the best by val_loss \(\d\.\d+\)\n", result.err
        )

    def test_without_validation_text(self, tmp_path, capsys):
        result = call(capsys, "run", "--src", write_tsv(tmp_path / "text.tsv"), "--out", tmp_path / "run", *SHORT)
        assert result.code == 0
        assert "no test or validation text: nothing to evaluate" in result.err
        assert not (tmp_path / "run/report.json").exists()

    def test_names_a_folder_itself(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert call(capsys, "run", "--src", write_tsv(tmp_path / "text.tsv"), *SHORT).code == 0
        (folder,) = (tmp_path / "runs").iterdir()
        assert (folder / "model").is_dir()

    def test_settings_come_from_file_or_template_then_options_then_words(self, tmp_path, capsys):
        text = write_tsv(tmp_path / "text.tsv")
        file = tmp_path / "config.yaml"
        file.write_text("model: {dropout: 0.2, bias: true}\ndata: {train_data_path: elsewhere, val_split: 5}\n")
        options = ["--src", text, "--config", file, "--split", 9, "--out", tmp_path / "run"]
        assert call(capsys, "run", *options, "model.dropout=0.3", *SHORT).code == 0
        config = load_config(tmp_path / "run/config.yaml")
        assert (config.model.dropout, config.model.bias, config.data.val_split) == (0.3, True, 9)
        assert config.data.train_data_path == str(text)

    def test_template_and_units(self, tmp_path, capsys):
        text = write_tsv(tmp_path / "text.tsv")
        words = ["training.time_limit=45min", "training.save_every=100k", "training.max_steps=0.002k"]
        options = ["--preset", "transformer-base", "--split", "0.009k", "--out", tmp_path / "run"]
        assert call(capsys, "run", "--src", text, *options, *TINY, *words, "scheduler.warmup=1").code == 0
        config = load_config(tmp_path / "run/config.yaml")
        assert (config.model.activation, config.scheduler.name) == ("relu", "inverse_sqrt")
        assert (config.training.time_limit, config.training.save_every) == (FORTY_FIVE_MINUTES, 100_000)
        assert (config.training.max_steps, config.data.val_split) == (2, 9)

    def test_refuses_a_folder_with_a_run_before_it_reads_texts(self, tiny_run, capsys):
        before = snapshot(tiny_run)
        result = call(capsys, "run", "--src", "no such text", "--out", tiny_run)
        assert result.code == 2
        assert result.error_lines == [
            f"pytorch-dl: error: {tiny_run}: the folder already holds a run. "
            f"Fix: go on with `pytorch-dl resume {tiny_run}`, or choose another --out."
        ]
        assert snapshot(tiny_run) == before

    def test_a_time_limit_ends_it_at_its_best(self, tmp_path, capsys):
        text = write_tsv(tmp_path / "text.tsv")
        limit = ["training.max_steps=1m", "training.time_limit=0.5s", "training.eval_every=5", "logging.log_every=1000"]
        result = call(
            capsys, "run", "--src", text, "--split", 12, "--out", tmp_path / "run", *TINY, *limit,
            "scheduler.name=constant", "training.learning_rate=0.1",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert "training ended: the time limit of 0:00 is reached" in result.err
        found = {r["step"]: r["val_loss"] for r in records(tmp_path / "run") if r["kind"] == "validation"}
        best = min(found, key=found.__getitem__)
        origin = json.loads((tmp_path / "run/model/origin.json").read_text())
        assert (origin["best_step"], origin["averaged"]) == (best, False)
        assert weights(tmp_path / "run") == (tmp_path / f"run/checkpoints/step-{best:08d}" / ckpt.MODEL).read_bytes()
        assert (tmp_path / "run/report.json").exists()

    def test_stopped_in_the_check_it_leaves_nothing(self, tmp_path, capsys, monkeypatch):
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("pytorch_dl.run.check_texts", stop)
        result = call(capsys, "run", "--src", write_tsv(tmp_path / "text.tsv"), "--out", tmp_path / "run", *SHORT)
        line = "pytorch-dl: interrupted before anything had to be saved. Fix: run it again.\n"
        assert result == Result(75, "", line)
        assert not (tmp_path / "run").exists()


class TestTrain:
    def test_trains_by_a_file_without_check_and_evaluation(self, tmp_path, capsys):
        text, file = write_tsv(tmp_path / "text.tsv"), tmp_path / "config.yaml"
        file.write_text(f"data:\n  train_data_path: {text}\n  val_split: 12\n")
        result = call(capsys, "train", file, "--out", tmp_path / "run", *SHORT)
        assert result.code == 0, result.err
        assert "Training text" not in result.err
        assert (tmp_path / "run/model" / ckpt.MODEL).exists()
        assert not (tmp_path / "run/report.json").exists()

    def test_its_finished_run_is_left_alone(self, tmp_path, capsys):
        text, file = write_tsv(tmp_path / "text.tsv"), tmp_path / "config.json"
        file.write_text(json.dumps({"data": {"train_data_path": str(text), "val_split": 12}}))
        assert call(capsys, "train", file, "--out", tmp_path / "run", *SHORT).code == 0
        before = snapshot(tmp_path / "run")
        assert call(capsys, "resume", tmp_path / "run").code == 0
        assert snapshot(tmp_path / "run") == before


class TestCheck:
    def test_prints_a_report(self, tmp_path, capsys):
        src, tgt = two_files(tmp_path, "train", 60)
        result = call(capsys, "check", "--src", src, "--tgt", tgt)
        assert result.code == 0
        assert result.out.startswith("Training text\n")
        assert "pairs                 60" in result.out

    def test_json(self, tmp_path, capsys):
        text, val = write_tsv(tmp_path / "text.tsv"), write_tsv(tmp_path / "val.tsv", 7, first=50)
        test = write_tsv(tmp_path / "test.tsv", 5, first=58)
        texts = ("--src", text, "--val-src", val, "--test-src", test)
        report = json.loads(call(capsys, "check", *texts, "--json").out)
        assert [report[name]["pairs"] for name in ("train", "val", "test")] == [60, 7, 5]
        found = [finding["text"] for finding in report["findings"] if "2 (40.0 %) test pairs" in finding["text"]]
        assert found == ["2 (40.0 %) test pairs are in the training text too"]

    def test_reads_the_texts_of_a_file(self, tmp_path, capsys):
        (tmp_path / "config.yaml").write_text(f"data: {{train_data_path: {write_tsv(tmp_path / 'text.tsv')}}}\n")
        result = call(capsys, "check", "--config", tmp_path / "config.yaml", "data.val_split=5")
        assert result.code == 0
        assert "Validation text" in result.out

    def check_split(self, folder, capsys, text, *options):
        (folder / "config.yaml").write_text(f"data: {{train_data_path: {text}, val_split: 5}}\n")
        return call(capsys, "check", "--config", folder / "config.yaml", *options)

    def test_a_text_to_split_is_looked_at_past_its_faults(self, tmp_path, capsys):
        text = write_tsv(tmp_path / "text.tsv")
        text.write_text(text.read_text() + "one column\n\tab\nthree\tof\tthem\n")
        result = self.check_split(tmp_path, capsys, text)
        assert result.code == 3
        for part in ("text.tsv:61: expected 2 columns", "text.tsv:63: expected 2 columns", "the first in line 62"):
            assert part in result.out

    def test_blank_pairs_that_a_split_leaves_out_are_counted(self, tmp_path, capsys):
        text = write_tsv(tmp_path / "text.tsv")
        text.write_text(text.read_text() + "\tab\nab\t\n")
        result = self.check_split(tmp_path, capsys, text, "data.on_blank=drop")
        assert result.code == 0
        assert "2 (3.2 %) pairs have a blank side (1 source, 1 target)" in result.out
        assert "(val side)\n    pairs                 5\n" in result.out

    def test_blank_pairs_are_counted_in_training_and_evaluation_too(self, tmp_path, capsys):
        text, test = write_tsv(tmp_path / "text.tsv"), write_tsv(tmp_path / "test.tsv", 9, first=100)
        for path in (text, test):
            path.write_text(path.read_text() + "\tab\nab\t\n")
        (tmp_path / "config.yaml").write_text(f"data: {{train_data_path: {text}, val_split: 12, on_blank: drop}}\n")
        result = call(capsys, "train", tmp_path / "config.yaml", "--out", tmp_path / "run", *SHORT)
        assert f"{text} (train side): 2 pairs with a blank side are left out\n" in result.err
        result = call(capsys, "evaluate", tmp_path / "run", "--src", test, "--beam", 1)
        assert result.err.startswith(f"{test}: 2 pairs with a blank side are left out\n")
        assert result.out.startswith("9 pairs")

    def test_both_sides_of_a_split_text_in_one_file_are_an_error(self, tmp_path, capsys):
        src, _ = two_files(tmp_path, "text", 60)
        (tmp_path / "link").symlink_to(src)
        result = self.check_split(tmp_path, capsys, src, f"data.train_tgt_path={tmp_path / 'link'}")
        assert result.code == 3
        assert "both sides are the same file" in result.err


class TestTranslate:
    LINES = ("ab cd", "", "ef gh", "   ", "ab cd\u2028ef", "x" * 500, "日本 ab", "ab cd")

    def test_a_file_line_by_line(self, tiny_run, tmp_path, capsys):
        file = tmp_path / "in.txt"
        file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(self.LINES).encode())
        result = call(capsys, "translate", tiny_run, file, "--beam", 2)
        self.check_lines(result)

    def test_stdin_gives_the_same_as_a_file(self, tiny_run, tmp_path, capsys, monkeypatch):
        text = ("\n".join(self.LINES) + "\n").encode()
        (tmp_path / "in.txt").write_bytes(text)
        from_file = call(capsys, "translate", tiny_run, tmp_path / "in.txt", "--beam", 1)
        typed(monkeypatch, text)
        from_stdin = call(capsys, "translate", tiny_run, "--beam", 1)
        self.check_lines(from_stdin)
        assert from_stdin.out == from_file.out

    def check_lines(self, result: Result) -> None:
        assert result.code == 0, result.err
        lines = result.out.removesuffix("\n").split("\n")
        assert len(lines) == len(self.LINES)
        assert [not line for line in lines] == [not line.strip() for line in self.LINES]
        assert lines[0] == lines[-1]
        assert "warning: line 6 is longer than the model reads: only its beginning is translated" in result.err

    def test_nothing_in_nothing_out(self, tiny_run, capsys, monkeypatch):
        typed(monkeypatch, b"")
        assert call(capsys, "translate", tiny_run) == Result(0, "", "")

    def test_one_line_does_not_change_with_those_around_it(self, tiny_run, capsys):
        together = call(capsys, "translate", tiny_run, *[word for line in self.LINES for word in ("-t", line)])
        alone = [call(capsys, "translate", tiny_run, "--text", line).out for line in self.LINES]
        assert together.out == "".join(alone)

    def test_many_lines_keep_their_order(self, tiny_run, capsys, monkeypatch):
        monkeypatch.setattr("pytorch_dl.translating.CHUNK", 3)
        lines = [src for src, _ in pairs(8)]
        typed(monkeypatch, "".join(f"{line}\n" for line in lines).encode())
        result = call(capsys, "translate", tiny_run, "--json", "--beam", 1)
        found = [json.loads(line) for line in result.out.splitlines()]
        assert [(line["line"], line["source"]) for line in found] == list(enumerate(lines, 1))

    def test_a_line_with_a_tab_is_one_source_and_told_once(self, tiny_run, capsys):
        result = call(capsys, "translate", tiny_run, "-t", "ab", "-t", "ab\tba", "-t", "b\ta")
        assert (result.code, len(result.out.split("\n")[:-1])) == (0, 3)
        assert result.err.count("warning: there are tabs: a whole line is one source") == 1

    def test_json_tells_what_happened(self, tiny_run, capsys):
        result = call(capsys, "translate", tiny_run, "--json", "--nbest", 2, "-t", "ab", "-t", "x" * 500, "-t", "")
        lines = [json.loads(line) for line in result.out.split("\n")[:-1]]
        assert [line["translations"][0]["source_cut"] for line in lines] == [False, True, False]
        assert [len(line["translations"]) for line in lines] == [2, 2, 1]
        best, second = lines[0]["translations"]
        assert best["score"] >= second["score"]
        expected = {"text", "score", "log_prob", "finished", "source_cut", "tokens", "token_ids", "token_log_probs"}
        assert expected == best.keys()

    def test_nbest_prints_number_score_and_text(self, tiny_run, capsys):
        result = call(capsys, "translate", tiny_run, "--nbest", 3, "--beam", 1, "-t", "ab", "-t", "cd ef")
        rows = [line.split("\t") for line in result.out.removesuffix("\n").split("\n")]
        assert [row[0] for row in rows] == ["1"] * 3 + ["2"] * 3
        assert float(rows[0][1]) >= float(rows[1][1]) >= float(rows[2][1])

    def test_an_unfinished_run_serves_its_best_checkpoint(self, tiny_run, tmp_path, capsys):
        import shutil

        shutil.copytree(tiny_run, tmp_path / "run")
        whole = call(capsys, "translate", tmp_path / "run", "-t", "ab cd")
        shutil.rmtree(tmp_path / "run/model")
        assert call(capsys, "translate", tmp_path / "run", "-t", "ab cd") == whole

    def test_prompts_at_a_terminal(self, tiny_run, tmp_path):
        pty = pytest.importorskip("pty")
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command("translate", tiny_run, "--json"),
            cwd=tmp_path,
            env=environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.write(ours, b"ab cd\n\n")
        assert process.wait(timeout=120) == 0
        said = os.read(ours, 1 << 16).decode()
        os.close(ours)
        assert "Type a line to translate; an empty line ends." in said
        assert "> " in said
        assert '"source": "ab cd"' in said

    def test_converses_without_prompts_in_a_piped_answer(self, tiny_run, capsys, monkeypatch):
        typed(monkeypatch, b"ab cd\nef\n\nnever read\n")
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        result = call(capsys, "translate", tiny_run)
        assert (result.code, result.out.count("\n")) == (0, 2)
        assert ">" not in result.out
        assert result.err == "Type a line to translate; an empty line ends.\n"

    def test_a_reader_that_leaves_is_no_error(self, tiny_run, tmp_path):
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.run(
            command("translate", tiny_run, "-t", "ab"),
            cwd=tmp_path,
            env=environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=120,
        )
        os.close(writing)
        assert (process.returncode, process.stderr) == (0, b"")


class TestNoText:
    @pytest.mark.parametrize("command", [["run"], ["train", "empty.yaml"]], ids=lambda words: words[0])
    def test_leaves_no_folder(self, command, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("empty.yaml").touch()
        assert call(capsys, *command).code == 2
        assert not Path("runs").exists()


class TestEvaluate:
    def test_scores_two_files(self, tiny_run, tmp_path, capsys):
        src, ref = two_files(tmp_path, "test", 9, first=100)
        options = ["--src", src, "--ref", ref, "--beam", 1, "--save", tmp_path / "out.txt"]
        result = call(capsys, "evaluate", tiny_run, *options)
        assert result.code == 0, result.err
        assert result.out.startswith("9 pairs, beam 1, length penalty 1\n")
        assert "BLEU" not in result.out, "of references of one word it would always be 0"
        for name in ("chrF2", "exact match", "token error rate", "character error rate", "perplexity"):
            assert f"\n{name} " in result.out
        translated = call(capsys, "translate", tiny_run, src, "--beam", 1)
        assert (tmp_path / "out.txt").read_text() == translated.out

    def test_one_file_with_both_sides(self, tiny_run, tmp_path, capsys):
        result = call(capsys, "evaluate", tiny_run, "--src", write_tsv(tmp_path / "test.tsv", 5), "--beam", 1)
        note = "BLEU is left out: it counts runs of four words, and no reference is so long\n"
        assert (result.code, result.err) == (0, note)
        assert result.out.startswith("5 pairs")

    def test_columns_are_those_of_the_training_text(self, tmp_path, capsys):
        text = tmp_path / "text.jsonl"
        text.write_text("".join(json.dumps({"a": src, "b": tgt}) + "\n" for src, tgt in pairs(60)))
        columns = ["data.src_column=a", "data.tgt_column=b"]
        options = ["--src", text, "--split", 9, "--out", tmp_path / "run"]
        assert call(capsys, "run", *options, *columns, *SHORT).code == 0
        assert call(capsys, "evaluate", tmp_path / "run", "--src", text, "--beam", 1).out.startswith("60 pairs")
        tsv = write_tsv(tmp_path / "test.tsv", 5)
        assert call(capsys, "evaluate", tmp_path / "run", "--src", tsv, "--beam", 1).out.startswith("5 pairs")

    def test_pairs_too_long_for_the_model_are_counted(self, tiny_run, tmp_path, capsys):
        (tmp_path / "test.tsv").write_text("ab\tba\n" + "ab " * 50 + "\tba\n")
        result = call(capsys, "evaluate", tiny_run, "--src", tmp_path / "test.tsv", "--beam", 1)
        assert result.code == 0
        assert "warning: 1 of 2 pairs are longer than the model reads (40 tokens)" in result.err
        assert "tokens:3" in result.out


class TestResume:
    def test_leaves_a_finished_run_untouched(self, tiny_run, capsys):
        before = snapshot(tiny_run)
        result = call(capsys, "resume", tiny_run)
        assert result.code == 0
        assert "is finished: nothing to do" in result.err
        assert snapshot(tiny_run) == before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
    def test_after_a_signal_ends_in_the_same_weights(self, number, tiny_run, tmp_path, capsys, monkeypatch):
        result = self.interrupted(number, tiny_run, tmp_path, capsys, monkeypatch, step=13)
        assert result.code == 75
        (line,) = result.error_lines
        assert f"stopped by signal {int(number)} at step 13, which is saved" in line
        assert not (tmp_path / "run/model").exists()
        resumed = call(capsys, "resume", tmp_path / "run")
        assert resumed.code == 0
        assert "resuming at step 13" in resumed.err
        assert weights(tmp_path / "run") == weights(tiny_run)
        assert records(tmp_path / "run") == records(tiny_run)
        assert (tmp_path / "run/report.json").read_bytes() == (tiny_run / "report.json").read_bytes()

    def test_needs_no_text_any_more(self, tiny_run, tmp_path, capsys, monkeypatch):
        assert self.interrupted(signal.SIGTERM, tiny_run, tmp_path, capsys, monkeypatch, step=3).code == 75
        (tmp_path / "text.tsv").unlink()
        result = call(capsys, "resume", tmp_path / "run")
        assert result.code == 0, result.err
        assert f"the text cannot be read, its prepared form does instead: {tmp_path / 'text.tsv'}" in result.err
        assert weights(tmp_path / "run") == weights(tiny_run)
        assert f"not evaluated: {tmp_path / 'text.tsv'}: no such file" in result.err

    def test_refuses_another_text(self, tiny_run, tmp_path, capsys, monkeypatch):
        assert self.interrupted(signal.SIGTERM, tiny_run, tmp_path, capsys, monkeypatch, step=3).code == 75
        recorded = json.loads((tmp_path / "run/data.json").read_text())["train"][0]["sha256"]
        with open(tmp_path / "text.tsv", "a") as text:
            text.write("another\tpair\n")
        before = snapshot(tmp_path / "run/checkpoints")
        result = call(capsys, "resume", tmp_path / "run")
        assert result.code == 4
        (line,) = result.error_lines
        assert "the text has changed since the run began" in line
        assert f"expected {recorded[:12]}" in line
        assert line.count("fingerprint") == 1
        assert snapshot(tmp_path / "run/checkpoints") == before

    def test_takes_a_text_that_was_mended_before_the_first_step(self, tmp_path, capsys):
        text, file = tmp_path / "text.tsv", tmp_path / "config.yaml"
        write_tsv(text).write_text(text.read_text() + "\tblank source\n")
        file.write_text(f"data: {{train_data_path: {text}}}\n")
        result = call(capsys, "train", file, "--out", tmp_path / "run", *SHORT)
        assert result.code == 3
        assert f"{text}:61: the source is blank" in result.error_lines[0]
        write_tsv(text)
        assert call(capsys, "resume", tmp_path / "run").code == 0
        assert (tmp_path / "run/model").is_dir()

    def test_evaluates_a_run_that_was_stopped_in_its_evaluation(self, tiny_run, tmp_path, capsys, monkeypatch):
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("pytorch_dl.evaluating.evaluate", stop)
            result = self.run(tmp_path, capsys)
        assert result.code == 75
        assert f"Fix: go on with `pytorch-dl resume {tmp_path / 'run'}`" in result.error_lines[0]
        assert not (tmp_path / "run/report.json").exists()
        assert call(capsys, "resume", tmp_path / "run").code == 0
        assert (tmp_path / "run/report.json").read_bytes() == (tiny_run / "report.json").read_bytes()

    def run(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> Result:
        text = write_tsv(folder / "text.tsv")
        return call(capsys, "run", "--src", text, "--split", 12, "--out", folder / "run", "--beam", 2, *TINY)

    def interrupted(self, number, tiny_run, folder, capsys, monkeypatch, *, step: int) -> Result:
        """The same run as `tiny_run`, with a signal in the middle of a step."""
        report = Reporter.step

        def signalling(self, state, *args, **kwargs):
            if state.step == step:
                os.kill(os.getpid(), number)
            report(self, state, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(Reporter, "step", signalling)
            return self.run(folder, capsys)


class TestProcess:
    """What only a process of its own can show."""

    LONG = (*TINY, "training.max_steps=60", "training.eval_every=100k", "training.save_every=20")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
    @pytest.mark.parametrize("call_it", ["exec(text)", "import library; assert library.whole"])
    def test_a_signal_in_a_library_is_told_by_the_exit_code(self, call_it, number, tmp_path):
        """Of a KeyboardInterrupt in text that is run, `python -m` kills itself at its end; imports may swallow it."""
        send = f"os.kill(os.getpid(), {int(number)})"
        (tmp_path / "library.py").write_text(
            f"import os\ntry: {send}\nexcept BaseException: pass\nelse: whole = True\n"
        )
        (tmp_path / "program.py").write_text(
            f"import os, time\nfrom pytorch_dl import entry\ntext = '{send}'\n"
            f"def work(*words, **named):\n    {call_it}\n    time.sleep(60)\n"
            "entry.app = work\nentry.main()\n"
        )
        paths = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parent.parent)])
        ended = subprocess.run(
            [sys.executable, "-m", "program"], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
        )
        assert ended.returncode == 75, ended
        assert ended.stderr == "pytorch-dl: interrupted before anything had to be saved. Fix: run it again.\n"

    def test_sigterm_saves_and_resume_ends_in_the_same_weights(self, tmp_path, capsys):
        text = write_tsv(tmp_path / "text.tsv")
        (tmp_path / "config.yaml").write_text(f"data: {{train_data_path: {text}, val_split: 12}}\n")
        arguments = ["train", tmp_path / "config.yaml", *self.LONG]
        process = self.started(*arguments, "--out", tmp_path / "broken", cwd=tmp_path)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 75, err
        (line,) = (line for line in err.splitlines() if line.startswith("pytorch-dl: "))
        assert line.startswith(f"pytorch-dl: {tmp_path / 'broken'}: stopped by signal 15 at step ")
        assert "Traceback" not in err
        assert child("resume", tmp_path / "broken", cwd=tmp_path).code == 0
        assert call(capsys, *arguments, "--out", tmp_path / "whole").code == 0
        assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
        assert records(tmp_path / "broken") == records(tmp_path / "whole")

    @pytest.mark.parametrize("is_one_request", [False, True])
    def test_a_second_signal(self, is_one_request, tmp_path):
        """Ends training at once; but not what a launcher sends at one moment."""
        text = write_tsv(tmp_path / "text.tsv")
        (tmp_path / "config.yaml").write_text(f"data: {{train_data_path: {text}}}\n")
        arguments = ["train", tmp_path / "config.yaml", "--out", tmp_path / "run", *self.LONG, "training.max_steps=1m"]
        first = "" if is_one_request else "import pytorch_dl.training.signals as s; s.ONE_REQUEST_SECONDS = 0.0"
        process = self.started(*arguments, "training.save_every=1m", cwd=tmp_path, first=first)
        for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):  # both at one moment
            process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == (75 if is_one_request else 128 + signal.SIGTERM), err
        assert "Traceback" not in err
        assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == is_one_request

    def test_a_signal_that_is_sent_again_while_it_is_told(self, tmp_path):
        program = (
            "import os, signal, time\nfrom pytorch_dl import entry\n"
            "def work(*words, **named):\n    send()\n    time.sleep(60)\n"
            "def send(): os.kill(os.getpid(), signal.SIGTERM)\n"
            "told, entry.app = entry.told, work\n"
            "entry.told = lambda error: send() or told(error)\n"
            "entry.main()\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
        assert ended.returncode == 75, ended
        assert ended.stderr == "pytorch-dl: interrupted before anything had to be saved. Fix: run it again.\n"

    def test_a_signal_before_training_is_told_in_one_line(self, tmp_path):
        program = (
            "import os, signal, pytorch_dl.dataset.efficient_dataloader as module, pytorch_dl.entry\n"
            "module.open_or_build = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
            "pytorch_dl.entry.main()\n"
        )
        options = ["run", "--src", str(write_tsv(tmp_path / "text.tsv")), "--out", "run", *TINY]
        done = subprocess.run(
            [sys.executable, "-c", program, *options],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 75, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last == "pytorch-dl: run: interrupted. Fix: go on with `pytorch-dl resume run`."
        assert "Traceback" not in done.stderr

    def test_bits_do_not_depend_on_the_process(self):
        program = (
            "import os, sys, pytorch_dl.entry\n"
            "sys.argv = ['pytorch-dl', 'config', 'show']\n"
            "try: pytorch_dl.entry.main()\n"
            "finally: assert 'torch' not in sys.modules; print(os.environ.get('MKL_CBWR'), file=sys.stderr)\n"
        )
        inherited = {name: value for name, value in environment().items() if name != "MKL_CBWR"}
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, env=inherited, capture_output=True, text=True
        )
        features = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        fixed = "avx2" in features and ("avx512f" not in features or "GenuineIntel" in features)
        assert done.stderr.strip() in (("AVX2", "AVX512") if fixed else ("None",))

    def started(self, *arguments: object, cwd: Path, first: str = "") -> subprocess.Popen:
        """A process that has trained some steps; `first` is what it does before."""
        program = f"{first}\nfrom pytorch_dl.entry import main\nmain()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=cwd,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        timing = Path(str(arguments[arguments.index("--out") + 1])) / "timing.jsonl"
        deadline = time.monotonic() + 120
        while not timing.exists() or timing.read_bytes().count(b"\n") < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return process


class TestDebug:
    def test_shows_where_an_error_comes_from(self, tmp_path, capsys):
        quiet = call(capsys, "resume", tmp_path / "nothing")
        done = child("--debug", "resume", tmp_path / "nothing", cwd=tmp_path)
        assert "Traceback" not in quiet.err
        assert "Traceback" in done.err
        assert (done.code, done.error_lines) == (quiet.code, quiet.error_lines)


def test_demo_settings_are_sound_and_its_texts_are_there():
    from pytorch_dl.demo import demo_config

    config = demo_config()
    assert config.problems() == []
    assert Path(str(config.data.test_data_path)).is_file()


def test_demo_trains_evaluates_translates_and_goes_on(tmp_path, capsys, monkeypatch):
    from pytorch_dl import demo

    text = write_tsv(tmp_path / "text.tsv")
    settings = yaml.safe_load("{train_data_path: '', val_data_path: null, test_data_path: ''}")
    settings = {**settings, "train_data_path": str(text), "test_data_path": str(text)}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"data": settings}))
    monkeypatch.setattr(demo, "demo_config", lambda: load_config(file, SHORT))
    first = call(capsys, "demo", "--out", tmp_path / "run")
    assert first.code == 0, first.err
    assert "exact match 0.0 % on 60 held-out pairs" in first.out
    assert first.out.count("  ->  ") == len(demo.LINES)
    before = snapshot(tmp_path / "run")
    assert call(capsys, "demo", "--out", tmp_path / "run").out == first.out
    assert snapshot(tmp_path / "run") == before
