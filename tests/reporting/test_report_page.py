"""The page of a run: what stands on it, what never runs in it, and what it does without."""

import base64
import hashlib
import json
import re
import shutil

import pytest
from pages import HOSTILE, copied, read, series, write_records
from tiny_runs import TINY, call, snapshot, write_tsv

from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.experiments.compare import ONE_SEED
from pytorch_dl.reporting.heat_map import LEAST
from pytorch_dl.reporting.page import GENERATOR, MOST_RUNS, page, read_runs, write_page
from pytorch_dl.training.metrics import memory_mb
from pytorch_dl.translator import load

TAGS = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "nav", "main", "section", "script", "a"),
    *("h1", "h2", "h3", "p", "dl", "dt", "dd", "div", "ul", "li", "span", "b", "i", "bdi", "mark", "small", "code"),
    *("table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption"),
    *("svg", "g", "path", "line", "circle", "rect", "text"),
}
MB = 2**20


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of a finished run with samples, as a validation that translates leaves them."""
    folder = copied(tiny_run, tmp_path / "mine")
    samples = [{"src": "ab cd", "reference": "cd ab", "translation": "cd cd"}]
    write_records(folder / "samples.jsonl", [{"step": step, "samples": samples} for step in (10, 20)])
    return folder


def test_the_curves_are_the_records(run):
    rows = [
        {"step": 1, "kind": "train", "nll": 5.5, "ppl": 244.7, "learning_rate": 1e-3, "grad_norm": 2.0},
        {"step": 2, "kind": "train", "nll": 4.25, "ppl": 70.1, "learning_rate": 2e-3, "grad_norm": 1.0},
        {"step": 2, "kind": "epoch", "epoch": 1, "efficiency": 0.5},
        {"step": 2, "kind": "validation", "val_loss": 4.5, "val_ppl": 90.0, "chrf": 12.5, "best": True},
    ]
    write_records(run / "metrics.jsonl", rows)
    write_records(
        run / "timing.jsonl",
        [
            {"step": 1, "seconds": 1.0, "tokens_per_second": 100.0, "peak_rss_mb": 512.0},
            {"step": 2, "seconds": 9.0, "tokens_per_second": 1.0, "peak_rss_mb": 1.0},  # the life that was killed
            {"step": 2, "seconds": 3725.0, "tokens_per_second": 20000.0, "peak_rss_mb": 1024.0},
        ],
    )
    found = read(run)
    assert series(found) == [
        ([1, 2], ["5.5", "4.25"]),
        ([2], ["4.5"]),
        ([1, 2], ["244.7", "70.1"]),
        ([2], ["90"]),
        ([1, 2], ["0.001", "0.002"]),
        ([1, 2], ["2", "1"]),
        ([1, 2], ["100", "20,000"]),
        ([2], ["50"]),
        ([1, 2], ["0.5", "1"]),
        ([2], ["12.5"]),
    ]
    assert "1:02:05" in found.text and "validation loss of the kept weights4.500 step 2" in found.text
    assert "Not recorded: Exact match." in found.text


def test_what_a_run_records_is_all_there(tmp_path, capsys):
    text, out = write_tsv(tmp_path / "text.tsv"), tmp_path / "run"
    result = call(capsys, "run", "--src", text, "--split", 12, "--out", out, *TINY, "training.eval_decode=3")
    assert result.code == 0, result.err
    assert f"all of it on a page: {out / 'report.html'}" in result.err
    found = read(out)
    assert "Not recorded" not in found.text and "not recorded" not in found.text
    figures = [has["aria-label"] for has in found.all("svg")]
    assert figures[:8] == [
        f"{name} by step"
        for name in (
            *("Loss", "Perplexity", "Learning rate", "Gradient norm", "Tokens a second", "Batch efficiency"),
            *("Memory of the process", "chrF2"),
        )
    ]
    assert len(series(found)[-4][0]) == 20  # efficiency, of each line of the record
    assert all(f"step {step}" in found.text for step in (10, 20))
    report = json.loads((out / "report.json").read_text())
    for score in report["scores"]:
        interval = f"[{score['low']:.2f}, {score['high']:.2f}]"
        assert f"{score['name']}{score['signature']}{score['value']:.2f} {interval}" in found.text
    for name in ("environment", "data"):
        values = json.loads((out / f"{name}.json").read_text())
        told = (
            values.values() if name == "environment" else [text["sha256"] for side in values.values() for text in side]
        )
        assert all(str(value) in found.text for value in told)
    assert re.fullmatch(r"[0-9a-f]{40}|none", json.loads((out / "environment.json").read_text())["commit"])


def test_a_huge_perplexity_can_be_read(run):
    report = json.loads((run / "report.json").read_text())
    row = next(score for score in report["scores"] if score["name"] == "perplexity")
    row |= {"value": 1.2e303, "low": 2.0, "high": 1.01e304}
    (run / "report.json").write_text(json.dumps(report))
    assert f"{row['signature']}1.2e+303 [2.00, 1.0e+304]" in read(run).text


def test_weights_that_were_averaged_have_another_loss(run):
    row = {"step": 2, "kind": "validation", "val_loss": 4.5, "val_ppl": 90.0, "best": True}
    write_records(run / "metrics.jsonl", [row])
    (run / "model/origin.json").write_text('{"best_step": 2, "last_step": 2, "averaged": true}')
    assert "validation loss of the kept weights4.500 step 2, before averaging" in read(run).text


def test_the_test_text_has_a_fingerprint_too(run, tmp_path, capsys):
    assert "test textnone" in read(run).text
    text = write_tsv(tmp_path / "test.tsv", 5)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("test_data_path: null", f"test_data_path: {text}"))
    assert "test textnot recorded" in read(run).text
    (run / "report.json").unlink()
    assert call(capsys, "resume", run).code == 0
    expected = TextSource(str(text)).fingerprint()
    assert f"test text{text}{expected}weights for use" in read(run).text
    assert re.search(r"of 5 pairs, .*, the translations have \d\.\d\d times the words of", read(run).text)


def test_where_the_model_looked(run):
    found = read(run, with_attention=True)
    assert [has["aria-label"] for has in found.all("svg")][-1] == "Attention of mine"
    sources, targets = [*"ab", "▁", *"cd", "</s>"], [*"cd", "▁", *"cd", "</s>"]
    translator = load(run, device="cpu")
    ids = [*translator.tokenizers.tgt.encode("cd cd"), translator.tokenizers.tgt.eos_id]
    attention = translator.attention("ab cd", ids)
    pieces = [[piece.replace(" ", "▁") for piece in side] for side in (attention.source, attention.target)]
    assert pieces == [sources, targets]
    for target, weights in zip(targets, attention.weights, strict=True):
        for source, weight in zip(sources, weights, strict=True):
            assert weight < LEAST or f"{target} ← {source}: {weight:.0%}" in found.text


def test_many_runs_have_few_maps(run, tmp_path):
    found = read(run, *(copied(run, tmp_path / str(number)) for number in range(4)), with_attention=True)
    maps = [has["aria-label"] for has in found.all("svg") if has["aria-label"].startswith("Attention")]
    assert maps == [f"Attention of {name}" for name in ("mine", "0", "1", "2")]
    assert "Shown are the first 4 runs." in found.text


def test_settings_are_shown_where_they_differ_from_the_nearest_template(run):
    found = read(run)
    assert "settings are those of the template nano, but for these" in found.text or "of the defaults" in found.text
    assert "model.d_model16" in found.text and "Width of the residual stream." in found.text
    assert "model.bias" not in found.text


def test_several_runs_lie_over_each_other(run, tmp_path):
    other = copied(run, tmp_path / "other")
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("seed: 1\n", "seed: 2\n"))
    found = read(run, other)
    assert "2 runs" in found.text and "mine, training" in found.text and "other, validation" in found.text
    assert len(series(found)) == 2 * len(series(read(run)))
    assert {has["class"].split()[1] for has in found.all("g") if has.get("data-steps")} == {"c0", "c1"}
    assert "system.seed121" in found.text  # here, there, in the template
    assert "Runs against mine" in found.text and found.text.count("no difference shown") == 2  # chrF2++, exact match
    assert f"is shown as better or worse: {ONE_SEED}" in found.text and ONE_SEED not in read(run).text


def test_a_run_on_another_text_is_not_compared(run, tmp_path):
    other = copied(run, tmp_path / "other")
    table = other / "validation.compared.tsv"
    table.write_text(table.read_text().replace("ab", "xy"))
    found = read(run, other)
    assert "Not compared, for they were not evaluated on the text of mine: other." in found.text


def test_runs_of_one_name_are_told_apart(run, tmp_path):
    other = copied(run, tmp_path / "there/mine")
    assert [one.name for one in read_runs([run, other])] == [str(run), str(other)]
    assert len(read_runs([run, run])) == 1


def test_a_comparison_that_evaluate_printed(run, tmp_path):
    row = {"system": HOSTILE, "first": "mine", "metric": "BLEU", "value": 31.256, "low": 30.0, "high": 32.5}
    row |= {"difference": -1.5, "p_value": 0.00123, "level": 0.05, "verdict": "worse", "signature": "s"}
    (tmp_path / "e.json").write_text(json.dumps({"comparisons": [row, "nonsense", {"metric": "chrF2"}]}))
    found = read(run, evaluations=[tmp_path / "e.json"])
    assert f"BLEU{HOSTILE}31.26 [30.00, 32.50]-1.500.00120.05worse" in found.text
    (tmp_path / "e.json").write_text(json.dumps({"comparisons": []}))
    assert "it compares nothing" in read(run, evaluations=[tmp_path / "e.json"]).text


class TestStrangersText:
    def spoil(self, run):
        """Put markup wherever a text may come from outside."""
        rows = [["answer", "source", "reference", "translation"], ["wrong", HOSTILE, f"a {HOSTILE}", f"b {HOSTILE}"]]
        (run / "validation.compared.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
        sample = {"src": HOSTILE, "reference": HOSTILE, "translation": f"x {HOSTILE}"}
        write_records(run / "samples.jsonl", [{"step": 10, "samples": [sample]}])
        (run / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
        data = {side: [{"name": HOSTILE, "weight": 1.0, "sha256": HOSTILE}] for side in ("train", "val")}
        (run / "data.json").write_text(json.dumps(data))
        report = json.loads((run / "report.json").read_text())
        for score in report["scores"]:
            score |= {"name": f"BLEU {HOSTILE}", "signature": HOSTILE}
        for part in report["breakdowns"]:
            part["counted_in"] = HOSTILE
        report["samples"] = [{"source": HOSTILE, "reference": HOSTILE, "translation": HOSTILE}]
        (run / "report.json").write_text(json.dumps(report))
        config, project = (run / "config.yaml").read_text(), f"wandb_project: {json.dumps(HOSTILE)}"
        (run / "config.yaml").write_text(re.sub("wandb_project: .*", lambda _: project, config))

    def test_stays_text(self, run, tmp_path):
        self.spoil(run)
        hostile = run.rename(tmp_path / "<script>alert(3)")
        found = read(hostile, with_attention=True)
        assert found.text.count(HOSTILE) > 10
        assert {name for name, _ in found.elements} <= TAGS
        assert len(found.all("script")) == len(found.all("style")) == 1
        assert not [name for _, has in found.elements for name in has if name.startswith("on") or name == "style"]

    def test_would_not_run_if_it_were_markup(self, run):
        """Only the page's own style and script have the sums that its policy lets in."""
        found = read(run)
        (policy,) = (has["content"] for has in found.all("meta") if has.get("http-equiv"))
        for name in ("script", "style"):
            digest = base64.b64encode(hashlib.sha256(found.raw[name].encode()).digest()).decode()
            assert f"{name}-src 'sha256-{digest}'" in policy
        assert "default-src 'none'" in policy and "unsafe" not in policy

    def test_of_any_direction_and_with_controls(self, run):
        source = "\u202eabc\x07 \ud800 שלום"
        sample = {"src": source, "reference": "مرحبا بالعالم", "translation": "مرحبا"}
        write_records(run / "samples.jsonl", [{"step": 10, "samples": [sample]}])
        text = page(read_runs([run]), with_attention=False)
        text.encode()
        assert '<bdi dir="auto">\u202eabc\ufffd \ufffd שלום</bdi>' in text
        assert '<bdi dir="auto">مرحبا بالعالم</bdi>' in text


def test_nothing_is_fetched(run):
    found = read(run)
    links = [has[name] for _, has in found.elements for name in ("src", "href", "srcset", "action") if has.get(name)]
    assert links and all(link == "data:," or link.startswith("#") for link in links)
    for name, words in (("style", ("url(", "@import", "@font-face")), ("script", ("fetch", "import", "http", "src"))):
        assert not [word for word in words if word in found.raw[name]]
    targets = {has.get("id") for _, has in found.elements}
    assert {link[1:] for link in links if link.startswith("#")} <= targets


def test_a_long_run_has_a_small_page(run, tmp_path):
    train = [
        {"step": step, "kind": "train", "nll": 5.0 + step % 7, "ppl": 9.0, "learning_rate": 1e-3, "grad_norm": 1.5}
        for step in range(1, 20_001)
    ]
    write_records(run / "metrics.jsonl", train)
    write_records(
        run / "timing.jsonl", [{"step": row["step"], "tokens_per_second": 1e4, **memory_mb()} for row in train]
    )
    row = "wrong\t" + "\t".join(["слово " * 400] * 2) + "\tother"
    (run / "validation.compared.tsv").write_text("answer\tsource\treference\ttranslation\n" + f"{row}\n" * 30)
    runs = read_runs([run, *(copied(run, tmp_path / str(number)) for number in range(MOST_RUNS - 1))])
    assert len(page(runs, with_attention=False).encode()) < 2 * MB


class TestWhatIsMissing:
    def test_everything(self, run):
        """A folder that has been begun: its configuration alone."""
        for path in run.iterdir():
            if path.name != "config.yaml":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        found = read(run, with_attention=True)
        for line in (
            "metrics.jsonl is missing.",
            "timing.jsonl is missing.",
            "Training has not ended: its record goes to step 0.",
            "There is no evaluation",
            "No run has been evaluated yet.",
            "No samples were recorded",
            "Not recorded: loss, perplexity, learning rate",
            "The prepared training text is not there: mine.",
            "No map: no translation",
            "not recorded",
            "none yet",
        ):
            assert line in found.text, line

    def test_the_end_of_a_line(self, run):
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:5]) + "nonsense\n" + lines[5][:20])
        kept = [row for row in map(json.loads, lines[:5]) if row["kind"] == "train"]
        shutil.rmtree(run / "model")
        found = read(run, with_attention=True)
        assert "The last line of metrics.jsonl is torn" in found.text
        assert "metrics.jsonl: 1 line is no record, and left out." in found.text
        assert f"Training has not ended: its record goes to step {kept[-1]['step']}." in found.text
        assert series(found)[0][0] == [row["step"] for row in kept] and len(kept) > 2

    @pytest.mark.parametrize("name", ["report.json", "environment.json", "data.json", "samples.jsonl", "timing.jsonl"])
    @pytest.mark.parametrize("content", ["", "[]", "{", '{"scores": 1, "breakdowns": [1], "samples": [{}]}', "\x00"])
    def test_a_file_that_holds_something_else(self, name, content, run):
        (run / name).write_text(content)
        assert read(run, with_attention=True).all("svg")

    def test_no_number(self, run):
        write_records(run / "metrics.jsonl", [{"step": 1, "kind": "train", "nll": float("nan"), "ppl": True}])
        report = json.loads((run / "report.json").read_text())
        report["scores"][0] |= {"value": None, "low": None, "high": None}
        (run / "report.json").write_text(json.dumps(report))
        found = read(run)
        assert "Not recorded: loss, perplexity" in found.text
        assert f"{report['scores'][0]['signature']}no number" in found.text

    def test_the_model(self, run):
        shutil.rmtree(run / "model")
        shutil.rmtree(run / "checkpoints")
        assert "No map: the run has no trained model yet." in read(run, with_attention=True).text


class TestCommand:
    def test_writes_into_the_run(self, run, capsys):
        (run / "report.html").unlink()
        before = snapshot(run)
        result = call(capsys, "report", run)
        assert (result.code, result.out) == (0, f"{run / 'report.html'}\n")
        assert (run / "report.html").read_text().startswith("<!doctype html>")
        assert set(snapshot(run).items()) - set(before.items()) == {
            ("report.html", snapshot(run)["report.html"])
        }  # nothing else is touched

    def test_is_a_function_of_the_files(self, run, tmp_path, capsys):
        for name in ("a", "b"):
            assert call(capsys, "report", run, "--out", tmp_path / name).code == 0
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_of_several_writes_here(self, run, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = call(capsys, "report", run, copied(run, tmp_path / "b"), "--no-attention")
        assert (result.code, result.out) == (0, "report.html\n")
        assert "Left out, for they were not asked for." in (tmp_path / "report.html").read_text()

    def test_replaces_its_own_pages_alone(self, run, tmp_path, capsys):
        out = tmp_path / "page.html"
        out.write_text("<!doctype html> a page of mine")
        result = call(capsys, "report", run, "--out", out)
        assert result.code == 2
        assert result.error_lines == [
            f"pytorch-dl: error: {out}: is there, and is no page of a report. Fix: choose another --out."
        ]
        assert out.read_text() == "<!doctype html> a page of mine"
        out.write_text(f"<!doctype html>{GENERATOR}")
        assert call(capsys, "report", run, "--out", out).code == 0

    @pytest.mark.parametrize("kind", ["nothing", "a file", "an empty folder"])
    def test_refuses_what_is_no_run(self, kind, tmp_path, capsys):
        path = tmp_path / "x"
        if kind == "a file":
            path.write_text("")
        elif kind == "an empty folder":
            path.mkdir()
        result = call(capsys, "report", path)
        assert result.code == CheckpointError.exit_code
        assert len(result.err.splitlines()) == 1 and str(path) in result.err
        assert not (path / "report.html").exists()

    def test_refuses_an_evaluation_that_is_none(self, run, tmp_path, capsys):
        (tmp_path / "e.json").write_text("{}")
        result = call(capsys, "report", run, "--evaluation", tmp_path / "e.json")
        assert result.code == 3
        assert f"{tmp_path / 'e.json'}: it is no evaluation" in result.err

    def test_refuses_too_many(self, tmp_path):
        with pytest.raises(ConfigError, match=r"13 runs are too many for one page\. Fix: give at most 12\."):
            write_page([tmp_path / str(number) for number in range(13)], tmp_path / "out")


def test_a_run_ends_well_without_its_page(tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr("pytorch_dl.run.write_page", refuse)
    text = write_tsv(tmp_path / "text.tsv")
    result = call(capsys, "run", "--src", text, "--split", 12, "--out", tmp_path / "run", *TINY)
    assert result.code == 0
    assert "no page was written: no room" in result.err
