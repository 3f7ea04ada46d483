"""`translate` to a file: it goes on after any end to the same bytes; wishes of a line; and what it refuses."""

import io
import json
import math
from pathlib import Path

import pytest
from tiny_runs import WORDS, Result, call

from pytorch_dl import translating
from pytorch_dl.errors import UserError
from pytorch_dl.generation.hypothesis import Hypothesis
from pytorch_dl.resumable import ResumableFile

LINES = [f"{a} {b}" for a in WORDS for b in WORDS]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(translating, "CHUNK", 8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


def test_a_file_holds_what_stdout_shows(tiny_run, source, tmp_path, capsys):
    shown = call(capsys, "translate", tiny_run, source, "--beam", 2)
    written = call(capsys, "translate", tiny_run, source, "--beam", 2, "--out", tmp_path / "out" / "file.txt")
    assert (written.code, written.out) == (0, "")
    assert (tmp_path / "out" / "file.txt").read_text() == shown.out and len(shown.out.splitlines()) == len(LINES)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["file.txt", "file.txt.job.json"]
    again = call(capsys, "translate", tiny_run, source, "--beam", 2, "--out", tmp_path / "out" / "file.txt", "--resume")
    assert (again.code, again.err) == (0, f"{tmp_path / 'out' / 'file.txt'} is complete: nothing to do\n")


@pytest.mark.parametrize(
    "options", [["--beam", 2, "--nbest", 2], ["--sample", "--nbest", 2, "--json"]], ids=["beam", "sample"]
)
def test_it_goes_on_from_each_chunk_to_the_same_bytes(tiny_run, source, tmp_path, capsys, monkeypatch, options):
    whole, out = tmp_path / "whole.txt", tmp_path / "out.txt"
    assert call(capsys, "translate", tiny_run, source, *options, "--out", whole).code == 0
    append = ResumableFile.append
    for stops in range(1, 7):
        calls = 0

        def stop(self, printed, count, *, source, limit=stops):
            nonlocal calls
            calls += 1
            if calls == 2:
                self._file.write(b"half a li")  # what a kill leaves
                self._file.flush()
                raise KeyboardInterrupt
            append(self, printed, count, source=source)

        monkeypatch.setattr(ResumableFile, "append", stop)
        resume = ["--resume"] if stops > 1 else []
        result = call(capsys, "translate", tiny_run, source, *options, "--out", out, *resume)
        assert result.code == 75
        assert result.error_lines == [
            f"pytorch-dl: {out}: interrupted. Fix: give the same command again, with --resume."
        ]
        assert not out.exists() and json.loads((tmp_path / "out.txt.part.json").read_text())["lines"] == 8 * stops
    monkeypatch.setattr(ResumableFile, "append", append)
    assert call(capsys, "translate", tiny_run, source, *options, "--out", out, "--resume").code == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.part*"))


def test_each_line_of_json_has_its_own_wishes(tiny_run, tmp_path, capsys):
    plain = json.loads(call(capsys, "translate", tiny_run, "-t", "ab cd", "--json").out)["translations"][0]["text"]
    assert plain
    path = tmp_path / "lines.jsonl"
    rows = [
        {"text": "ab cd"},
        {"text": "ab cd", "prefix": "kl "},
        {"text": "ab cd", "ban": [plain]},
        {"text": "ab cd", "require": ["ij"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call(capsys, "translate", tiny_run, path, "--jsonl")
    free, begun, banned, required, _ = result.out.split("\n")
    assert free == plain and begun.startswith("kl ") and plain not in banned and "ij" in required
    for option, word, expected in (("--prefix", "kl ", begun), ("--ban", plain, banned), ("--require", "ij", required)):
        assert call(capsys, "translate", tiny_run, "-t", "ab cd", option, word).out == f"{expected}\n"


def test_json_holds_tokens_with_their_log_probabilities(tiny_run, capsys):
    [row] = json.loads(call(capsys, "translate", tiny_run, "-t", "ab", "--json").out)["translations"]
    assert len(row["tokens"]) == len(row["token_log_probs"]) == len(row["text"]) + row["finished"]
    assert sum(row["token_log_probs"]) == pytest.approx(row["log_prob"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ab", "is not JSON"),
        ("[1]", "expected a JSON object with the key text"),
        ('{"src": "ab"}', "expected a JSON object with the key text"),
        ('{"text": "ab", "bann": []}', "unknown key 'bann', expected one of text, prefix, ban, require"),
        ('{"text": 3}', "text is 3, expected a text"),
        ('{"text": "ab", "ban": "cd"}', "ban is 'cd', expected a list of texts"),
        ('{"text": "ab", "require": [1]}', "require is [1], expected a list of texts"),
        ('{"text": "a\\ud800"}', r"text is 'a\ud800', which holds half a character"),
        ('{"text": "ab", "require": ["\\udc00"]}', r"require is ['\udc00'], which holds half a character"),
        ('{"text": "ab", "ban": [" "]}', "a banned text is blank"),
        ('{"text": "ab", "ban": ["cd"], "prefix": "cd e"}', "'cd e' is asked for and holds 'cd', which is banned"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_line_of_json_that_is_none_is_told_with_its_place(tiny_run, tmp_path, capsys, line, problem):
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"text": "ab"}}\n{line}\n')
    result = call(capsys, "translate", tiny_run, path, "--jsonl")
    assert result.code == 3
    assert result.error_lines[0].startswith(f"pytorch-dl: error: {path}:2: {problem}")


def test_what_stands_there_is_never_written_over(tiny_run, source, tmp_path, capsys):
    out = tmp_path / "out.txt"
    out.write_text("mine")
    result = call(capsys, "translate", tiny_run, source, "--out", out)
    assert (result.code, out.read_text()) == (2, "mine")
    assert f"{out}: the file exists. Fix: delete it, or choose another --out." in result.err
    out.unlink()
    (tmp_path / "out.txt.part.json").write_text("{}")
    assert (
        "an unfinished translation lies there. Fix: go on with --resume"
        in call(capsys, "translate", tiny_run, source, "--out", out).err
    )
    result = call(capsys, "translate", tiny_run, source, "--out", out, "--resume")
    assert result.code == 4 and "out.txt.part.json: is damaged: it does not tell what is translated" in result.err
    assert "--resume needs --out FILE" in call(capsys, "translate", tiny_run, source, "--resume").err


def test_only_the_same_work_goes_on(tiny_run, source, tmp_path, capsys, monkeypatch):
    append = ResumableFile.append

    def stop(self, printed, count, *, source):
        append(self, printed, count, source=source)
        raise KeyboardInterrupt

    out = tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        patch.setattr(ResumableFile, "append", stop)
        assert call(capsys, "translate", tiny_run, source, "--out", out).code == 75
    other = call(capsys, "translate", tiny_run, source, "--out", out, "--resume", "--beam", 3)
    assert (
        other.code == 2 and "out.txt.part: it was begun with another settings. Fix: give the same command" in other.err
    )
    copied = source.with_name("copy.txt")
    copied.write_bytes(source.read_bytes())
    assert "begun with another source" in call(capsys, "translate", tiny_run, copied, "--out", out, "--resume").err


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_it_goes_on_with_the_same_source_only(tiny_run, source, tmp_path, capsys, monkeypatch, through):
    def translated(text: str) -> Result:
        source.write_text(text)
        given = [source] if through == "file" else []
        with source.open("rb") as file:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read())))
        return call(capsys, "translate", tiny_run, *given, "--out", out, "--resume")

    append, out, text = ResumableFile.append, tmp_path / "out.txt", source.read_text()

    def stop(self, printed, count, *, source):
        append(self, printed, count, source=source)
        if self.lines == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ResumableFile, "append", stop)
        assert translated(text).code == 75
    where = source if through == "file" else "stdin"
    changed = text[:60] + ("a" if text[60] != "a" else "b") + text[61:]  # as long, and it begins alike
    assert 0 < text[:60].count("\n") < 16
    for wrong, told in (
        (changed, f"{where}: the first 16 lines are other ones than those that are translated in {out}"),
        (text[:30], f"{where}: the source has {len(text[:30].splitlines())} lines, but 16 are translated in {out}"),
    ):
        refused = translated(wrong)
        assert refused.code == 3 and told in refused.err
    assert translated(text).code == 0
    for wrong, told in (
        (changed, f"the first {len(LINES)} lines are other ones"),
        (f"{text}one more\n", f"the source has more than the {len(LINES)} lines that are translated in {out}"),
    ):
        refused = translated(wrong)
        assert refused.code == 3 and told in refused.err
    again = translated(text)
    assert (again.code, again.err) == (0, f"{out} is complete: nothing to do\n")


def test_one_process_writes_a_file(tiny_run, source, tmp_path, capsys, monkeypatch):
    append, out, others = ResumableFile.append, tmp_path / "out.txt", []

    def beside(self, printed, count, *, source):
        append(self, printed, count, source=source)
        if not others:
            for resume in (False, True):
                with pytest.raises(UserError) as refused, ResumableFile(out, self.job, resume=resume):
                    pass
                others.append((refused.value.exit_code, refused.value.what))

    monkeypatch.setattr(ResumableFile, "append", beside)
    assert call(capsys, "translate", tiny_run, source, "--out", out).code == 0
    assert others == [(2, "an unfinished translation lies there"), (6, "another process is writing this file")]
    assert out.read_text() == call(capsys, "translate", tiny_run, source).out


def test_a_finished_file_is_only_complete_for_the_work_that_it_is_of(tiny_run, source, tmp_path, capsys):
    out, note = tmp_path / "out.txt", tmp_path / "out.txt.job.json"
    out.write_text("mine\n")
    result = call(capsys, "translate", tiny_run, source, "--out", out, "--resume")
    assert (result.code, out.read_text()) == (2, "mine\n")
    assert f"{out}: the file exists, and no {note.name} tells what it is of" in result.err
    out.unlink()
    assert call(capsys, "translate", tiny_run, source, "--out", out).code == 0
    other = call(capsys, "translate", tiny_run, source, "--out", out, "--resume", "--beam", 3)
    assert other.code == 2 and f"{out}: it was begun with another settings" in other.err
    note.rename(tmp_path / "out.txt.part.json")  # as a kill between the last two calls leaves it
    again = call(capsys, "translate", tiny_run, source, "--out", out, "--resume")
    assert again.code == 0 and "is complete" in again.err and note.exists()
    out.write_text("cut")
    assert call(capsys, "translate", tiny_run, source, "--out", out, "--resume").code == 4


def test_nothing_is_left_where_nothing_was_translated(tiny_run, source, tmp_path, capsys):
    result = call(capsys, "translate", tiny_run, source, "--out", tmp_path / "out" / "a", "--device", "tpu")
    assert result.code == 2 and not list((tmp_path / "out").iterdir())


def test_lines_of_json_come_from_files(tiny_run, capsys):
    result = call(capsys, "translate", tiny_run, "--text", "ab", "--jsonl")
    assert result.code == 2 and "--jsonl is for files and stdin" in result.err


def test_json_knows_no_infinity(tiny_run, capsys, monkeypatch):
    nothing = Hypothesis([], -math.inf, -math.inf, finished=False)  # where all was banned
    monkeypatch.setattr("pytorch_dl.translator.generate", lambda *given, **options: [[nothing]])
    [line] = call(capsys, "translate", tiny_run, "--text", "ab", "--json").out.splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["translations"][0]["score"] is None


def test_a_full_disk_leaves_what_can_go_on(tiny_run, source, tmp_path, capsys, monkeypatch):
    import errno
    import os

    out, fsync, calls = tmp_path / "out.txt", os.fsync, 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = call(capsys, "translate", tiny_run, source, "--out", out)
    assert result.code == 6 and "no space left on the disk" in result.err
    assert call(capsys, "translate", tiny_run, source, "--out", out, "--resume").code == 0
    assert out.read_text() == call(capsys, "translate", tiny_run, source).out


@pytest.mark.parametrize(
    ("options", "kind"),
    [(["--sample"], "sampling"), (["--beam", "4", "--groups", "2"], "groups of beams")],
)
def test_required_words_are_refused_where_nothing_would_see_to_them(tiny_run, capsys, options, kind):
    refused = call(capsys, "translate", tiny_run, "--text", "a b", "--require", "c", *options)
    assert (refused.code, refused.out) == (2, "")
    assert f"required words do not go with {kind}. Fix: leave out one" in refused.err
