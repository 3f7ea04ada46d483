"""Decoding: a translation depends on its line alone, each line has one, what is odd is told, a kill costs nothing."""

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import WORDS, Result, call, command, environment

from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.tokenizer import build_tokenizers
from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import new_folder
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.training.checkpoint import MODEL
from pytorch_dl.translator import Translation, load

LONGEST = 40  # tokens, with the end mark: model.max_seq_len of the tiny run
SIZES = (2, 3, 7, 16, 33, 64)  # lines that are given together
ODD = [
    "",
    " ",
    "\t",
    "\u2028",
    "\u0085",
    "\x0b",
    "\r",
    "\ufeff",
    "字",
    "नमस्ते",
    "\U0001f600",
    "e\u0301",
    "</s>",
    "<pad>",
    "▁",
]


def random_lines(count: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 9))) for _ in range(count)]


def odd_lines(count: int, seed: int) -> list[str]:
    """Ordinary, blank, much too long and foreign ones, with what other programs take for the end of a line."""
    rng, lines = random.Random(seed), []
    for _ in range(count):
        length = rng.choice([0, 1, 3, 8, 10 * LONGEST])
        line = "".join(rng.choices([*WORDS, *ODD], k=length))
        lines.append(line.rstrip("\r"))
    return lines


def test_i1_neither_the_batch_nor_the_order_counts(case, tiny_run):
    """Given alone, in parts of other sizes, all at once and shuffled; greedy and with beams."""
    lines, translator = random_lines(case.size(24, 1000), seed=1), load(tiny_run)
    order, times, furthest = list(range(len(lines))), 0, 0.0
    for beam in (1, 4):
        settings = SearchSettings(beam_size=beam)

        def outputs(order: list[int], size: int, settings: SearchSettings = settings) -> dict[int, Translation]:
            parts = [order[start : start + size] for start in range(0, len(order), size)]
            every = (
                zip(part, translator.hypotheses([lines[n] for n in part], settings), strict=True) for part in parts
            )
            return {number: best[0] for pairs in every for number, best in pairs}

        expected = outputs(order, 1)
        assert len({found.text for found in expected.values()}) > 1
        shuffled = random.Random(beam).sample(order, len(order))
        for arranged in [*((order, size) for size in (*SIZES, len(lines))), (shuffled, 64), (order[::-1], 5)]:
            for number, found in outputs(*arranged).items():
                assert found.text == expected[number].text, (number, arranged[1])
                furthest = max(furthest, abs(found.score - expected[number].score))
                times += 1
    assert furthest <= 1e-5
    case.survived(
        times,
        injected=f"{len(lines):,} lines in other batches and orders, 1 and 4 beams",
        lost=f"no text differs; scores by at most {furthest:.0e}",
    )


def test_i2_each_line_has_one_translation(case, tiny_run, tmp_path, capsys):
    """Blank, too long, of unknown characters, with other line ends inside: aligned, and told where it is cut."""
    lines = odd_lines(case.size(80, 10_000), seed=2)
    source = tmp_path / "source.txt"
    source.write_bytes("".join(f"{line}\n" for line in lines).encode())
    written = [line.removeprefix("\ufeff") if number == 0 else line for number, line in enumerate(lines)]
    tokens = [len(ids) + 1 for ids in load(tiny_run).tokenizers.src.encode_batch(written)]
    shown = call(capsys, "translate", tiny_run, source, "--json", "--beam", 1)
    rows = [json.loads(line) for line in shown.out.split("\n")[:-1]]
    assert [(row["line"], row["source"]) for row in rows] == list(enumerate(written, 1))
    for row, line, length in zip(rows, written, tokens, strict=True):
        [best] = row["translations"]
        assert best["source_cut"] == (length > LONGEST and bool(line.strip()))
        assert best["text"] == "" or line.strip()
    plain = call(capsys, "translate", tiny_run, source, "--beam", 1)
    assert plain.out.count("\n") == len(lines)
    cut = {f"line {row['line']} is longer" for row in rows if row["translations"][0]["source_cut"]}
    assert cut and {line.partition(" than")[0].removeprefix("warning: ") for line in plain.err.splitlines()} >= cut
    kinds = f"{sum(not line.strip() for line in lines):,} blank, {len(cut):,} too long"
    case.survived(len(lines), injected=f"odd lines, {kinds}", lost="none; each cut one is told")


def test_i3_an_output_without_end_is_told(tiny_run, capsys, tmp_path):
    """In each line of JSON, whatever the limit."""
    source = tmp_path / "source.txt"
    source.write_text("".join(f"{line}\n" for line in random_lines(30, seed=3)))
    unfinished = 0
    for limit in (1, 2, 5, 9, 60):
        shown = call(capsys, "translate", tiny_run, source, "--json", "--max-ratio", 0, "--max-offset", limit)
        for row in map(json.loads, shown.out.split("\n")[:-1]):
            [best] = row["translations"]
            assert best["finished"] == (best["tokens"][-1] == "</s>")
            assert best["finished"] or len(best["tokens"]) == min(limit, LONGEST)
            unfinished += not best["finished"]
    assert unfinished > 30


def spoilt(run: Path, rng: random.Random) -> str:
    """Make a number of the weights one that is not finite, under a manifest that fits; returns the tensor's name."""
    tensors = load_file(run / "model" / MODEL)
    name = rng.choice(sorted(tensors))
    flat = tensors[name].view(-1)
    flat[rng.randrange(len(flat))] = rng.choice([torch.nan, torch.inf, -torch.inf])
    replace_weights(run, tensors)
    return name


def replace_weights(run: Path, tensors: dict[str, torch.Tensor]) -> None:
    with new_folder(run / "model") as folder:
        save_file(tensors, folder / MODEL)


def test_i3_a_model_that_cannot_be_used_is_refused(case, tiny_run, tmp_path, capsys):
    """Weights that are not finite, and a tokenizer of another vocabulary: 4; finite ones that overflow: 5."""
    run, rng = tmp_path / "run", random.Random(4)
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("cache"))
    whole = load_file(run / "model" / MODEL)

    def translated() -> Result:
        return call(capsys, "translate", run, "--text", "ab cd", "--beam", rng.choice([1, 3]))

    times = case.size(8, 300)
    for number in range(times):
        replace_weights(run, whole)
        name = spoilt(run, rng)
        with pytest.raises(CheckpointError, match=f"tensor '{name}' holds numbers that are not finite"):
            load(run)
        assert number or translated().code == 4
    replace_weights(run, {**whole, "decoder_norm.weight": torch.full_like(whole["decoder_norm.weight"], 3e38)})
    for _ in range(case.size(2, 20)):
        refused = translated()
        assert refused.code == 5 and refused.out == "", refused
        assert "logits for output token 1 are not finite numbers. Fix: " in refused.error_lines[0]
    replace_weights(run, whole)
    assert translated().code == 0
    text = TextSource(str(tiny_run.parent / "text.tsv"))
    for size in (265, 270):
        build_tokenizers([text], name="bpe", vocab_size=size, shared=True).save(run / "tokenizer")
        refused = translated()
        assert refused.code == 4 and "the model expects (" in refused.error_lines[0]
    case.survived(times, injected="a number of the weights that is not finite", lost="nothing: refused with the tensor")


@pytest.mark.slow
def test_i4_a_kill_while_lines_are_written(case, tiny_run, tmp_path):
    """Kill -9 at any moment, also while the process starts: what is there is a beginning, and the end has all bytes."""
    source, whole, out = tmp_path / "source.txt", tmp_path / "whole.txt", tmp_path / "out.txt"
    source.write_text("".join(f"{line}\n" for line in random_lines(case.size(4_500, 12_000), seed=5)))
    words, rng = command("translate", tiny_run, source, "--beam", 2, "--out"), random.Random(6)
    subprocess.run([*words, whole], env=environment(), check=True)
    expected, times, kills, finished = whole.read_bytes(), case.size(2, 100), 0, 0
    journal = tmp_path / "out.txt.part.json"
    while kills < times:
        with subprocess.Popen([*words, out, "--resume"], env=environment(), stderr=subprocess.DEVNULL) as process:
            begun = lines_of(journal)
            while process.poll() is None and lines_of(journal) == begun and kills % 4:  # each fourth: as it starts
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3 if kills % 4 else 3))
            process.kill()
        if process.returncode == 0:
            assert out.read_bytes() == expected
            for path in (out, tmp_path / "out.txt.job.json"):
                path.unlink()
            finished += 1
            continue
        kills += 1
        if journal.exists():
            noted = json.loads(journal.read_bytes())
            written = (out if out.exists() else tmp_path / "out.txt.part").read_bytes()
            assert written == expected or not out.exists()  # it has its name before the note has
            assert written[: noted["bytes"]] == expected[: noted["bytes"]]
            assert expected[: noted["bytes"]].count(b"\n") == noted["lines"]
    subprocess.run([*words, out, "--resume"], env=environment(), check=True)
    assert out.read_bytes() == expected
    case.survived(kills, injected="kill -9 of a translation at any moment", lost=f"no byte, in {finished + 1} files")


def lines_of(journal: Path) -> int:
    """How many lines are noted as written."""
    try:
        return int(json.loads(journal.read_bytes())["lines"])
    except FileNotFoundError:
        return 0
