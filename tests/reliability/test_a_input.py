"""Bad input: what is wrong with a text is told with its place before a step is done; nothing is shifted or lost.

Each case spoils one of two files of text, train.en and train.de, that c.yaml names.
"""

import gzip
import hashlib
import os
import random
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from odd_texts import PIECES, lines_of, translations
from privileges import no_privileges
from stores import BYTES, Cache, Pairs
from tiny_runs import TINY, call, pairs, snapshot, write_tsv
from tokenizers_of_others import LOOK_ALIKES, gpt2_like, pretrained, publish, t5_like

from pytorch_dl.config.model_config import DataConfig
from pytorch_dl.dataset.check import check
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.dataset.text_files import TextPair, TextSource
from pytorch_dl.dataset.text_pair import Fault
from pytorch_dl.dataset.tokenizer import Tokenizer, build_tokenizers
from pytorch_dl.dataset.tokenizer_training import TRAINERS
from pytorch_dl.errors import DataError
from pytorch_dl.training.trainer import OptimizedTrainer

EN, DE = Path("train.en"), Path("train.de")
COMMANDS = ("run --config c.yaml --out new", "train c.yaml --out new", "check --config c.yaml")
BLANKS = ("", " ", "\t", "\u3000", "\u2028", " \r", "\x0b")
WORDS = ("x y", "é", "a\ufeff")
MODEL = "model/model.safetensors"
MEANWHILE = "has changed meanwhile; the run was trained on what it held before"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(f"data: {{train_data_path: {EN}, train_tgt_path: {DE}}}")
    return tmp_path


def write(src: Sequence[str], tgt: Sequence[str]) -> None:
    for path, lines in ((EN, src), (DE, tgt)):
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def refused(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The one line that a command ends with, code 3, before it trains."""
    result = call(capsys, *command.split(), *TINY)
    assert result.code == 3, result
    (line,) = result.error_lines
    assert "Traceback" not in result.err
    assert not [path for path in Path().rglob("*") if path.name in ("metrics.jsonl", "checkpoints", "cache")]
    for path in Path("new").glob("*"):
        path.unlink()
    return line


def test_a1_a_lost_line(case, folder, capsys):
    rng, text, off = random.Random(1), translations(512), []
    times = case.size(6, 100)
    for number in range(times):
        sides = [[pair[side] for pair in text] for side in (0, 1)]
        side, gone = number % 2, rng.randrange(512)
        del sides[side][gone]
        write(*sides)
        line = refused(capsys, COMMANDS[number % 3])
        counts = f"{EN} has 511 lines, {DE} 512; " if side == 0 else f"{EN} has 512 lines, {DE} 511; "
        assert counts in line, line
        assert f"restore 1 missing line of {(EN, DE)[side]}" in line, line
        near = re.search(r"first look shifted near line (\d+)", line)
        off.append(abs((int(near[1]) - 1 if near else 511) - gone))
    assert np.median(off) <= 1
    case.survived(times, injected="one of 512 lines deleted on either side", lost="nothing: both counts, no step")


def test_a2_a_byte_that_is_not_utf_8(case, folder, capsys):
    rng, times = random.Random(2), case.size(6, 200)
    for number in range(times):
        sides = [["".join(rng.choices("ab é字\U0001f600", k=rng.randrange(1, 40))) + "." for _ in range(99)]] * 2
        write(*sides)
        path, line = rng.choice((EN, DE)), rng.randrange(99)
        column, byte = rng.randrange(len(sides[0][line]) + 1), rng.choice((0x80, 0xC0, 0xF8, 0xFF))
        lines = path.read_bytes().split(b"\n")
        at = len(sides[0][line][:column].encode())
        lines[line] = lines[line][:at] + bytes([byte]) + lines[line][at:]
        path.write_bytes(b"\n".join(lines))
        told = refused(capsys, COMMANDS[number % 3])
        assert f" {path}:{line + 1}:{column + 1}: byte 0x{byte:02x} is not UTF-8" in told, told
    case.survived(times, injected="one byte that is not UTF-8", lost="nothing: file, line and column, no step")


def test_a3_line_ends_marks_and_nul(case, folder):
    """Lines are those of `wc -l`; a NUL takes its pair out, and shifts nothing."""
    rng, times, seen = random.Random(3), case.size(100, 500), Counter[str]()
    contents = []
    for number in range(times):
        text = rng.choice(["", "\ufeff"]) + "".join(rng.choices([*PIECES, "\0"], k=rng.randrange(1, 30)))
        contents.append((text + rng.choice("x\n")).encode())
        Path(f"{number}.en").write_bytes(contents[-1])
    counted = subprocess.check_output(["wc", "-l", *(f"{number}.en" for number in range(times))], text=True)
    ends = [int(line.split()[0]) for line in counted.splitlines()]
    for number, data in enumerate(contents):
        odd, lines = Path(f"{number}.en"), ends[number] + (not data.endswith(b"\n"))
        DE.write_text("t\n" * lines)
        source = TextSource(str(odd), str(DE)) if number % 2 else TextSource(str(DE), str(odd))
        items = list(source.scan())
        assert len(items) == lines
        for line, (raw, item) in enumerate(zip(lines_of(data), items, strict=True), 1):
            if b"\0" in raw:
                assert isinstance(item, Fault)
                assert item.where == f"{odd}:{line}:{raw.decode().index(chr(0)) + 1}"
                seen["NUL"] += 1
            else:
                texts = (raw.decode(), "t") if number % 2 else ("t", raw.decode())
                assert item == TextPair(*texts, line)
        marked = data.startswith(b"\xef\xbb\xbf")
        assert source.remarks() == ([f"{odd}: the byte order mark at its start is not read"] if marked else [])
        seen["mark"] += marked
    assert min(seen["NUL"], seen["mark"]) > times / 5
    case.survived(times, injected="U+2028, U+0085, VT, lone CR, CRLF, NUL, BOM", lost="no line, as `wc -l` counts")


def test_a4_blank_lines(case, folder):
    """The pairs that are kept are in the store in order, each with its own target; the others are counted by kind."""
    rng, times, cache = random.Random(4), case.size(40, 500), Cache(folder / "cache")
    kinds = {(True, False): "source", (False, True): "target", (True, True): "both"}
    for _ in range(times):
        text, kept, blank, first = [], [], Counter[str](), None
        for line in range(1, rng.randrange(2, 12)):
            sides = rng.random() < 0.2, rng.random() < 0.2
            text.append([rng.choice(BLANKS) if side else f"{rng.choice(WORDS)} {line}" for side in sides])
            if sides in kinds:
                blank[kinds[sides]] += 1
                first = first or line
            else:
                kept.append(tuple(text[-1]))
        write(*zip(*text, strict=True))
        source = TextSource(str(EN), str(DE), on_blank="drop")
        if kept:
            store = cache.open(source)
            found = [(decode(store.src(i)), decode(store.tgt(i))) for i in range(len(store))]
            assert found == kept
            said = f"{blank.total()} pairs with a blank side are left out"
            assert any(said in line for line in cache.reports) == bool(blank) or not cache.built
        else:
            with pytest.raises(DataError, match=f"no pair is left: {len(text)} of {len(text)} have a blank side"):
                cache.open(source)
        assert check([source]).train.corpora[0].blank == dict(blank)
        if first:
            with pytest.raises(DataError, match=rf"^train\.(en|de):{first}: .* blank\. Fix: .*data\.on_blank=drop"):
                cache.open(TextSource(str(EN), str(DE)))
    case.survived(times, injected="blank lines: source, target, both, white space only", lost="no pair, none shifted")


def decode(ids: np.ndarray) -> str:
    return BYTES.src.decode(ids.tolist())


def unreadable(path: Path) -> None:
    path.chmod(0)


def cut_off(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes())[:-9])


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no such file. Fix: correct the path."),
    "a folder": (folder_instead, "is a folder, not a file. Fix: name a file in it."),
    "unreadable": (unreadable, "cannot be read: Permission denied. Fix: check the path and its permissions."),
    "a pipe": (pipe_instead, "is not a regular file. Fix: write the text to a file: it is read several times."),
    "0 bytes": (lambda path: path.write_bytes(b""), "is empty (0 bytes). Fix: write the file again, or leave it out."),
    "a cut gzip": (cut_off, "the gzip data are cut off before their end. Fix: compress it again from the original"),
    "1 line": (lambda path: path.write_text("a\n"), "do not tell where they part. Fix: restore 59 missing lines of"),
}
USABLE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "no line end at the end": lambda data: data.removesuffix(b"\n"),
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
}


def test_a5_files_of_other_kinds(case, folder, capsys):
    """Those that hold the text otherwise are read; the rest is refused with a way out."""
    sides = list(zip(*pairs(60), strict=True))
    for spoil, what in UNUSABLE.values():
        for path, command in ((EN, COMMANDS[0]), (DE, COMMANDS[2])):
            write(*sides)
            spoil(path)
            with no_privileges():
                line = refused(capsys, command)
            assert f" {path}: " in line and what in line, line
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    for change in USABLE.values():
        write(*sides)
        plain = list(TextSource(str(EN), str(DE)))
        assert len(plain) == 60
        for path in (EN, DE):
            path.write_bytes(change(path.read_bytes()))
        assert list(TextSource(str(EN), str(DE))) == plain
    write(["one"], ["eins"])
    assert list(TextSource(str(EN), str(DE))) == [TextPair("one", "eins", 1)]
    times = 2 * len(UNUSABLE) + len(USABLE) + 1
    case.survived(times, injected=", ".join([*UNUSABLE, *USABLE]), lost="nothing: read as it is, or refused")


def test_a6_pairs_that_are_too_long(case, folder):
    """As many as an oracle counts are left out and told, with the share; many are a warning, all an error."""
    rng, times, seen = random.Random(6), case.size(6, 100), Counter[str]()
    for number in range(times):
        sides = [["".join(rng.choices("abcdefgh", k=rng.randrange(1, 60))) for _ in range(200)] for _ in range(2)]
        write(*sides)
        longest = [max(len(src), len(tgt)) + 1 for src, tgt in zip(*sides, strict=True)]  # with the end mark
        limit = (rng.randrange(2, 62), min(longest) - 1, sorted(longest)[185], max(longest))[number % 4]
        over = sum(length > limit for length in longest)
        said: list[str] = []
        config = DataConfig(train_data_path=str(EN), train_tgt_path=str(DE), tokenizer_name="char", max_length=limit)
        data = DataModule(data=config, cache_dir=folder / "cache", report=said.append)
        data.setup()
        if over == 200:
            with pytest.raises(DataError, match=rf"^all 200 training pairs are longer than .* \({limit}\)"):
                data.train_dataloader()
            seen["all"] += 1
            continue
        kept = [id for batch in data.train_dataloader().batches(0) for id in batch.pair_ids.flatten().tolist()]
        assert sorted({*kept} - {-1}) == [id for id, length in enumerate(longest) if length <= limit]
        told = f"{over} of 200 training pairs ({over / 2:.2f} %) are longer than data.max_length ({limit}) and left out"
        assert [line for line in said if "longer" in line] == ([f"{'warning: ' * (over > 20)}{told}"] if over else [])
        seen["some" if over else "none"] += 1
        report = check([TextSource(str(EN), str(DE))], tokenizers=data.tokenizers, max_length=limit)
        assert report.train.corpora[0].over_long == over
    assert len(seen) == 3
    case.survived(times, injected="pairs over data.max_length: none, some, many, all", lost="no pair uncounted")


def test_a7_texts_that_look_like_special_tokens(case, folder):
    """They are encoded as text, never as a control id, and come back; also by tokenizers that others publish."""
    rng, times = random.Random(7), case.size(500, 10_000)
    parts = [*LOOK_ALIKES, "</s></s>", "a", "cat ", "é", "中", "\u2028", "\U0001f600"]
    lines = ["".join(rng.choices(parts, k=rng.randrange(1, 9))) + "." for _ in range(times)]
    text = Pairs([(line, line[::-1] + ".") for line in lines[: times // 10]])
    for name in TRAINERS:
        tokenizers = build_tokenizers([text], name=name, vocab_size=400, shared=True)
        encoded = spells_no_control_id(tokenizers.src, lines)
        assert tokenizers.src.decode_batch(encoded) == lines
        store = Cache(folder / name).open(text, tokenizers=tokenizers)
        assert min(store.src_ids.min(), store.tgt_ids.min()) > 3  # the ids 0 to 3 are the special ones
    gpt2 = pretrained(publish(folder / "g", gpt2_like(), eos_token="<|endoftext|>"))
    assert gpt2.decode_batch(spells_no_control_id(gpt2, lines)) == lines
    specials = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    spells_no_control_id(pretrained(publish(folder / "t", t5_like(), **specials)), lines)
    case.survived(times, injected="lines of </s>, <pad>, <2de>, \u2581 and the like", lost="no control id in a text")


def spells_no_control_id(tokenizer: Tokenizer, lines: list[str]) -> list[list[int]]:
    encoded = tokenizer.encode_batch(lines)
    control = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
    assert len(control) == 3
    assert not control & {id for ids in encoded for id in ids}
    return encoded


def test_a8_validation_text_that_is_training_text(case, folder, capsys):
    """What is shared is counted; where all is, there is nothing to validate on."""
    rng, times = random.Random(8), case.size(4, 50)
    for number in range(times):
        train, fresh = pairs(200), pairs(100, first=230)
        shared = (30, 100, 1, rng.randrange(100))[number % 4]
        val = rng.sample([*rng.choices(train, k=shared), *fresh[shared:]], 100)
        for path, text in (("a.tsv", train), ("val.tsv", val)):
            Path(path).write_text("".join(f"{src}\t{tgt}\n" for src, tgt in text))
        result = call(capsys, "check", "--src", "a.tsv", "--val-src", "val.tsv", *TINY)
        known = sum(pair in train for pair in val)
        assert known >= shared
        if known == 100:
            assert result.code == 3
            assert "all 100 validation pairs are in the training text too" in result.error_lines[0]
        else:
            assert result.code == 0
            level = "warning" if known >= 10 else "note   "
            told = f"{level}  {known} ({known}.0 %) validation pairs are in the training text too"
            assert (told in result.out) == bool(known), result.out
    case.survived(times, injected="validation text that is in part or all training text", lost="nothing: counted")


def test_a8_one_text_for_all(folder, capsys):
    """The same files to train, validate and test on: `run` refuses them, `train`, which checks nothing, says so."""
    write(*zip(*pairs(60), strict=True))
    text = ["data.train_data_path=train", "data.val_data_path=train", "data.test_data_path=train"]
    Path("c.yaml").write_text("data: {src_suffix: en, tgt_suffix: de}")
    told = refused(capsys, " ".join(["run --config c.yaml --out new", *text]))
    assert "all 60 validation pairs are in the training text too" in told
    result = call(capsys, "train", "c.yaml", "--out", "new", *text, *TINY, "training.max_steps=5")
    assert result.code == 0
    assert "warning: the validation text is the training text" in result.err
    write_tsv(Path("val.tsv"), 9, first=100)
    text[1] = "data.val_data_path=val.tsv"
    result = call(capsys, "train", "c.yaml", "--out", "other", *text, *TINY, "training.max_steps=5")
    assert result.code == 0
    assert "is the training text" not in result.err


class Killed(BaseException):
    """As kill -9: nothing handles it."""


def test_a9_a_text_that_is_written_to(case, folder, capsys, monkeypatch):
    """While a run trains on its prepared form, which it keeps, and says so; or after a kill, which `resume` refuses."""
    rng, times = random.Random(9), case.size(2, 50)
    write(*zip(*pairs(60), strict=True))
    settings = [*TINY, "training.save_every=1", "training.max_steps=6", "data.val_split=9"]
    straight = call(capsys, "train", "c.yaml", "--out", "straight", *settings)
    assert straight.code == 0
    assert MEANWHILE not in straight.err
    weights, text, first = digest("straight"), DE.read_bytes(), fingerprint()
    for number in range(times):
        DE.write_bytes(text)
        run, killed = f"run{number}", bool(number % 2)
        with monkeypatch.context() as patched:
            before_step(patched, rng.randrange(1, 6), die if killed else lambda: DE.write_bytes(rewritten(text, rng)))
            if killed:
                with pytest.raises(Killed):
                    call(capsys, "train", "c.yaml", "--out", run, *settings)
            else:
                result = call(capsys, "train", "c.yaml", "--out", run, *settings)
                assert result.code == 0, result
                assert result.err.count(f"warning: {DE} {MEANWHILE}") == 1, result.err
        if killed:
            DE.write_bytes(rewritten(text, rng))
            before = snapshot(Path(run, "checkpoints"))
            result = call(capsys, "resume", run)
            assert result.code == 4, result
            (line,) = result.error_lines
            assert "the text has changed since the run began" in line
            assert re.search(r"has the fingerprint [0-9a-f]{12}, expected [0-9a-f]{12}\.", line), line
            assert snapshot(Path(run, "checkpoints")) == before
            DE.write_bytes(text)
            assert fingerprint() == first
            assert call(capsys, "resume", run).code == 0
        assert digest(run) == weights
    case.survived(times, injected="a training text rewritten in the run, or between kill and resume", lost="no bit")


def before_step(patched: pytest.MonkeyPatch, step: int, act: Callable[[], object]) -> None:
    whole = OptimizedTrainer.begin_step

    def begin_step(self, *given, **options):
        if self.state.step == step:
            act()
        return whole(self, *given, **options)

    patched.setattr(OptimizedTrainer, "begin_step", begin_step)


def die() -> None:
    raise Killed


def rewritten(text: bytes, rng: random.Random) -> bytes:
    """The text with another letter, two lines swapped, or all of it in capitals."""
    lines = text.splitlines(keepends=True)
    kind = rng.randrange(3)
    if kind == 0:
        place = rng.choice([place for place, byte in enumerate(text) if byte not in b" \n"])
        return text[:place] + b"#" + text[place + 1 :]
    if kind == 1:
        first, second = rng.sample(range(len(lines)), 2)
        lines[first], lines[second] = lines[second], lines[first]
        return b"".join(lines)
    return text.upper()


def fingerprint() -> str:
    return TextSource(str(EN), str(DE)).fingerprint()


def digest(run: str) -> str:
    return hashlib.sha256(Path(run, MODEL).read_bytes()).hexdigest()
