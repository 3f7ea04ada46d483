import gzip
import json
import random
import shlex
import subprocess
from dataclasses import dataclass

import pytest

from pytorch_dl.dataset.check import check
from pytorch_dl.dataset.split import hold_out
from pytorch_dl.dataset.text_files import TextSource

LETTERS = "abcdefghij"


class LetterTokenizer:
    """One token a character; what is not in `known` is unknown, and decodes to nothing."""

    unk_id = 0

    def __init__(self, known=LETTERS + " ", lower=False):
        self.known, self.lower = known, lower

    def encode(self, text):
        return [self.known.find(letter) + 1 for letter in (text.lower() if self.lower else text)]

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]

    def decode(self, ids):
        return "".join(self.known[id - 1] for id in ids if id)

    def token(self, id):
        return self.known[id - 1] if id else "<unk>"


@dataclass
class Tokenizers:
    src: LetterTokenizer
    tgt: LetterTokenizer


TOKENIZERS = Tokenizers(LetterTokenizer(), LetterTokenizer())


def sentences(count, *, seed=0):
    """Different pairs whose lengths go together as in translations, of LETTERS and spaces."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        length = rng.randrange(10, 100)
        src = "".join(rng.choices(LETTERS, k=length))
        pairs.append((src, " ".join(rng.choices(LETTERS, k=max(2, round(length * rng.gauss(0.6, 0.08)))))))
    return pairs


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(pairs, name="train", **options):
        for side in (0, 1):
            (tmp_path / f"{name}.{'st'[side]}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
        return TextSource(f"{name}.s", f"{name}.t", **options)

    return write


def of_level(report, level):
    return [finding.text for finding in report.findings if finding.level == level]


def only(texts, part):
    """The one text that has `part` in it."""
    found = [text for text in texts if part in text]
    assert len(found) == 1, texts
    return found[0]


def test_clean_text_has_no_findings(corpus):
    train, val = corpus(sentences(2000)), corpus(sentences(100, seed=1), "val")
    report = check([train], [val], tokenizers=TOKENIZERS, max_length=300)
    assert report.findings == ()
    assert report.train.pairs == 2000 and report.val.pairs == 100
    assert report.train.corpora[0].length_correlation > 0.8
    assert report.lines()[-1] == "0 errors, 0 warnings"


def test_two_files_are_enough(corpus):
    report = check([corpus(sentences(50))], None)
    assert report.val is None and report.errors == [] == report.warnings
    assert "    pairs                 50" in report.lines()


def test_faults_are_listed_with_place_and_the_check_goes_on(corpus, tmp_path):
    pairs = sentences(300)
    corpus(pairs)
    rng = random.Random(2)
    lines = (tmp_path / "train.s").read_bytes().split(b"\n")
    bad = sorted(rng.sample(range(300), 9))
    columns = [rng.randrange(len(lines[i])) for i in bad]
    for i, column in zip(bad, columns, strict=True):
        lines[i] = lines[i][:column] + b"\xff" + lines[i][column:]
    (tmp_path / "train.s").write_bytes(b"\n".join(lines))
    report = check([TextSource("train.s", "train.t")], None)
    assert report.train.pairs == 291 and report.train.corpora[0].faults == {"encoding": 9}
    for i, column in list(zip(bad, columns, strict=True))[:5]:
        only(report.errors, f"train.s:{i + 1}:{column + 1}: byte 0xff is not UTF-8")
    only(report.errors, "4 more faults of this kind (encoding)")
    assert len(report.errors) == 6
    assert "    faults                9 encoding" in report.lines()


def test_unequal_counts_name_both_and_the_place(corpus, tmp_path):
    corpus(sentences(512))
    lines = (tmp_path / "train.t").read_text().splitlines()
    del lines[316]
    (tmp_path / "train.t").write_bytes(gzip.compress("\n".join(lines).encode()))
    (error,) = check([TextSource("train.s", "train.t")], None).errors
    assert "train.s has 512 lines, train.t 511; " in error and "first look shifted near line 31" in error


def test_missing_file_is_the_only_error(corpus):
    report = check([corpus(sentences(20)), TextSource("none.tsv")], None)
    assert report.errors == ["none.tsv: no such file. Fix: correct the path."]
    assert report.train.pairs == 20


@pytest.mark.parametrize(("blanks", "dropped"), [(5, "note"), (50, "warning")])
def test_blank_sides_are_counted_by_kind(corpus, blanks, dropped):
    pairs = sentences(100)
    for i in range(blanks):
        pairs[i * 2 + 1] = [(" ", "t"), ("s", ""), ("\u3000", "\t")][i % 3]
    counts = [len(range(kind, blanks, 3)) for kind in range(3)]
    for policy, level in (("error", "error"), ("drop", dropped)):
        report = check([corpus(pairs, on_blank=policy)], None)
        text = only(of_level(report, level), "have a blank side")
        assert f"{blanks} ({blanks}.0 %) pairs" in text and "the first in line 2" in text
        assert f"({counts[0]} source, {counts[1]} target, {counts[2]} both)" in text
        assert report.train.pairs == 100 - blanks
    report = check([corpus([("", "a"), ("b", "")], on_blank="drop")], None)
    only(report.errors, "no pair is left to use")


def test_misaligned_text(corpus):
    pairs = sentences(3000)
    sources, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    shifted = check([corpus(list(zip(sources, targets[1:] + targets[:1], strict=True)))], None)
    assert "lengths of the two sides do not go together (correlation " in only(shifted.warnings, "do not go together")
    partly = targets[:1000] + targets[1001:2001] + ["a"] + targets[2001:]
    text = only(check([corpus(list(zip(sources, partly, strict=True)))], None).warnings, "do not go together")
    assert "in 1 (33.3 %) of its blocks" in text and "in lines 1001 to 2000" in text
    too_few = check([corpus(list(zip(sources[:999], targets[1:1000], strict=True)))], None).warnings
    assert not any("do not go together" in text for text in too_few)


def test_far_length_ratios(corpus):
    pairs = sentences(100)
    few = [*pairs[:98], ("a" * 100, "b c"), ("ab", "c " * 40)]
    text = only(of_level(check([corpus(few)], None), "note"), "length ratio")
    assert "2 (2.0 %) pairs have a length ratio in characters over 3 times away from the median" in text
    many = [*pairs[:90], *(("a" * 90 + letter, letter) for letter in LETTERS)]
    report = check([corpus(many)], None, tokenizers=TOKENIZERS)
    assert "10 (10.0 %) pairs have a length ratio in tokens" in only(report.warnings, "length ratio")
    assert report.train.corpora[0].char_ratio.far == 10


@pytest.mark.parametrize(("repeats", "level"), [(3, "note"), (30, "warning")])
def test_repeated_pairs_and_sources(corpus, repeats, level):
    pairs = [(src, tgt if i < 60 else f"one target for {i % 2}") for i, (src, tgt) in enumerate(sentences(100))]
    train = [corpus(pairs), corpus([*pairs[:repeats], (pairs[50][0], "another")], "more")]
    report = check(train, None)
    assert report.train.repeated_pairs == repeats and report.train.repeated_sources == repeats + 1
    share = f"{repeats} ({100 * repeats / (101 + repeats):.1f} %)"
    assert (
        only(of_level(report, level), "repeat an earlier pair")
        == f"training text: {share} pairs repeat an earlier pair"
    )
    assert "training text: 1 (" in only(of_level(report, "note"), "a repeated source another target")


@pytest.mark.parametrize(
    ("shared", "level"), [(0, None), (9, "note"), (10, "warning"), (30, "warning"), (100, "error")]
)
def test_validation_text_that_is_training_text(corpus, shared, level):
    pairs, fresh = sentences(500), sentences(100, seed=1)
    report = check([corpus(pairs)], [corpus([*pairs[:shared], *fresh[shared:]], "val")])
    levels = {finding.level for finding in report.findings if "are in the training text too" in finding.text}
    assert levels == ({level} if level else set())
    if level:
        count = "all 100" if shared == 100 else f"{shared} ({shared}.0 %)"
        only(of_level(report, level), f"{count} validation pairs are in the training text too")


def test_a_test_text_may_be_training_text_but_not_unsaid(corpus):
    train, fresh = sentences(500), sentences(100, seed=1)
    report = check([corpus(train)], test=[corpus([*train[:30], *fresh[30:]], "test")])
    only(of_level(report, "warning"), "30 (30.0 %) test pairs are in the training text too")
    whole = check([corpus(train)], test=[corpus(train, "test")])
    assert not whole.errors
    only(whole.warnings, "all 500 test pairs are in the training text too")


def test_same_files_for_training_and_validation_are_an_error(corpus):
    train = corpus(sentences(50))
    report = check([train], [train])
    only(report.errors, "all 50 validation pairs are in the training text too")
    assert len(report.findings) == 1


def test_validation_sources_with_other_targets(corpus):
    pairs = sentences(500)
    val = [(pairs[i][0], f"other {i}") for i in range(4)] + sentences(96, seed=1)
    text = only(of_level(check([corpus(pairs)], [corpus(val, "val")]), "note"), "with another target")
    assert text.startswith("4 (4.0 %) validation sources are in the training text")


@pytest.mark.parametrize(("same", "level"), [(5, "note"), (20, "warning"), (100, "warning")])
def test_pairs_with_the_same_text_on_both_sides(corpus, same, level):
    pairs = [(src, src if i < same else tgt) for i, (src, tgt) in enumerate(sentences(100))]
    text = only(of_level(check([corpus(pairs)], None), level), "the same text on both sides")
    assert f"{same} ({same}.0 %) pairs" in text


PIECES = {
    "`@@ ` of subword-nmt": (["ein@@ e Kat@@ ze", "der Hund", "Kat@@"], ["eine Katze", "der Hund", "Kat"]),
    "`▁` of SentencePiece": (["▁ein e ▁Kat ze .", "▁der ▁Hund", "▁Kat"], ["eine Katze.", "der Hund", "Kat"]),
}


@pytest.mark.parametrize("mark", PIECES)
@pytest.mark.parametrize("side", ["source", "target"])
def test_pieces_of_words_are_warned_of_and_the_command_joins_them(corpus, mark, side):
    cut, whole = PIECES[mark]
    plain = sentences(300)
    pairs = [(cut[i % 3], text) if side == "source" else (text, cut[i % 3]) for i, (text, _) in enumerate(plain)]
    report = check([corpus(plain)], [corpus(pairs, "val")])
    text = only(report.warnings, "cut into pieces")
    assert (
        text.startswith("val.s + val.t: ") and f"of a sample of {side} texts are cut into pieces, with {mark}" in text
    )
    command = shlex.split(text.partition(" join them: ")[2])
    joined = subprocess.run(command, input="\n".join(cut), text=True, capture_output=True, check=True)
    assert joined.stdout.splitlines() == whole


@pytest.mark.parametrize(("cut", "said"), [(30, False), (31, True)])
def test_few_texts_in_pieces_are_no_matter(corpus, cut, said):
    pairs = [(f"a{'@@' if i < cut else ''} {src}", tgt) for i, (src, tgt) in enumerate(sentences(300))]
    warnings = [text for text in check([corpus(pairs)]).warnings if "pieces" in text]
    assert len(warnings) == said
    assert not said or "31 (10.3 %) of a sample of source texts" in warnings[0]


@pytest.mark.parametrize("text", ["@@ -1,3 +1,4 @@ def f():", "mail me@@home", "@@@@ @@", "a ▁ b", "_ a_b", "a▁b"])
def test_marks_that_are_no_pieces(corpus, text):
    pairs = [(f"{text} {src}", f"{tgt} {text}") for src, tgt in sentences(300)]
    assert not [text for text in check([corpus(pairs)]).warnings if "pieces" in text]


def test_what_would_train_garbage_is_an_error(corpus, tmp_path):
    pairs = sentences(200)
    corpus(pairs)
    (tmp_path / "link").symlink_to("train.s")
    for same in ("train.s", "link"):
        only(check([TextSource("train.s", same)], None).errors, "both sides are the same file")
    only(check([corpus([(src, "a") for src, _ in pairs])], None).errors, "all 200 target texts are the same")
    only(check([corpus([("a", tgt) for _, tgt in pairs])], None).errors, "all 200 source texts are the same")
    assert check([corpus([(src, "a") for src, _ in pairs[:99]])], None).errors == []


@pytest.mark.parametrize("max_length", [11, 30, 90, 98, 101, 200])
def test_over_long_pairs_equal_the_oracle(corpus, max_length):
    pairs = sentences(200)
    over = sum(max(len(src), len(tgt)) + 1 > max_length for src, tgt in pairs)
    report = check([corpus(pairs)], None, tokenizers=TOKENIZERS, max_length=max_length)
    assert report.train.corpora[0].over_long == over
    level = None if over == 0 else "error" if over == 200 else "warning" if over > 20 else "note"
    if level:
        text = only(of_level(report, level), f"over max_length ({max_length} tokens)")
        assert f"{over} ({over / 2:.1f} %) pairs" in text and ("none is left" in text) == (level == "error")
    else:
        assert report.findings == ()


@pytest.mark.parametrize(("unknown", "level"), [(100, None), (101, "warning"), (2000, "warning"), (2001, "error")])
def test_unknown_tokens(corpus, unknown, level):
    letters = "?" * unknown + "a" * (10_000 - unknown)
    pairs = [(letters[start : start + 10], f"{LETTERS[start % 7]} {start}") for start in range(0, 10_000, 10)]
    report = check(
        [corpus(pairs)], None, tokenizers=Tokenizers(LetterTokenizer(), LetterTokenizer("0123456789 " + LETTERS))
    )
    assert report.train.corpora[0].src_tokens.unknown_share == unknown / 10_000
    assert report.train.corpora[0].tgt_tokens.unknown_share == 0
    assert {finding.level for finding in report.findings if "unknown" in finding.text} == ({level} if level else set())
    if level:
        text = f"{unknown / 100:.1f} % of the source tokens are unknown to the tokenizer"
        only(of_level(report, level), text)


def test_round_trips(corpus):
    pairs = [(src if i % 2 else src.upper(), tgt) for i, (src, tgt) in enumerate(sentences(1000))]
    lower = Tokenizers(LetterTokenizer(lower=True), LetterTokenizer())
    report = check([corpus(pairs)], None, tokenizers=lower)
    text = only(report.warnings, "changed by encoding and decoding")
    found = report.train.corpora[0].src_tokens
    assert found.round_trips == 200 and 70 < found.round_trips_changed < 130
    assert f"{found.round_trips_changed} (" in text and " of a sample of source texts " in text
    assert report.train.corpora[0].tgt_tokens.round_trips_changed == 0
    assert any(" | " in line for line in report.lines())


class PieceTokenizer(LetterTokenizer):
    """One token for every two characters."""

    def encode(self, text):
        return super().encode(text)[::2]


@pytest.mark.parametrize(
    ("tokenizer", "length", "said"),
    [(PieceTokenizer, 7, True), (PieceTokenizer, 24, True), (PieceTokenizer, 25, False), (LetterTokenizer, 7, False)],
)
def test_short_texts_in_pieces_of_words_are_advised_to_take_characters(corpus, tokenizer, length, said):
    pairs = [(text[:length], text[-length:]) for text, _ in sentences(100) if len(text) >= length]
    tokenizers = Tokenizers(tokenizer(), tokenizer())
    report = check([corpus(pairs)], [corpus([("ab", "ba")], "val")], tokenizers=tokenizers)
    advice = [text for text in of_level(report, "note") if "data.tokenizer_name=char" in text]
    assert len(advice) == said
    if said:
        assert f"train.s + train.t: short texts (medians {length} and {length} characters)" in advice[0]


def test_one_side_of_a_split_can_be_checked(corpus):
    train, val = hold_out([corpus(sentences(300))], count=30, seed=0)
    report = check(train, [val])
    assert (report.train.pairs, report.val.pairs, report.findings) == (270, 30, ())
    (open_file,) = train[0].streams[0].paths[:1]
    open_file.write_text("a\n\n")
    assert "train.s:2: the source is blank" in only(check(train, None).errors, "blank")


def test_remarks_are_notes(corpus, tmp_path):
    (tmp_path / "x.csv").write_text("\ufeffhello,hallo\nyes,ja\n")
    notes = of_level(check([TextSource("x.csv")], None), "note")
    only(notes, "x.csv: the byte order mark at its start is not read")
    only(notes, "x.csv: has no header with known names; its first record is a pair: 'hello', 'hallo'")


def test_report_in_both_forms_errors_first(corpus):
    pairs = sentences(100)
    train = corpus([*pairs, *pairs[:40], ("", "x")])
    report = check([train], [corpus(pairs[:3], "val")], tokenizers=TOKENIZERS, max_length=20)
    levels = [finding.level for finding in report.findings]
    assert levels == sorted(levels, key=["error", "warning", "note"].index) and levels[0] == "error"
    assert json.loads(json.dumps(report.to_json()))["train"]["corpora"][0]["blank"] == {"source": 1}
    lines = report.lines()
    assert lines[0] == "Training text" and "Validation text" in lines and "    blank                 1 source" in lines
    assert (
        lines[-1] == f"{len(report.errors)} errors, {len(report.warnings)} warning{'s' * (len(report.warnings) != 1)}"
    )
    assert all("\n" not in line for line in lines)
