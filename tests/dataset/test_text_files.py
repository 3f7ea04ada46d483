import bz2
import gzip
import json
import lzma
import os
import random
import tracemalloc

import pytest
import zstandard

from pytorch_dl.dataset.text_files import TextPair, TextSource, blank_side
from pytorch_dl.dataset.text_pair import Fault
from pytorch_dl.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, text):
    with open(name, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return name


def texts(source):
    return [(pair.src, pair.tgt) for pair in source]


def two_files(src="a\nb\n", tgt="A\nB\n", **options):
    return TextSource(write("x.en", src), write("x.de", tgt), **options)


@pytest.mark.parametrize(
    ("name", "content", "options", "form"),
    [
        ("x.tsv", "a\tA\nb\tB\n", {}, "TSV"),
        ("x.txt", "a\tA\nb\tB", {}, "TSV"),
        ("x", "1\ta\tA\n2\tb\tB", {"src_column": "2", "tgt_column": "3"}, "TSV"),
        ("x.csv", "src,tgt\na,A\nb,B\n", {}, "CSV"),
        ("x.CSV", "a,A\nb,B\n", {}, "CSV"),
        ("x.csv", "en,de\na,A\nb,B\n", {"src_column": "en", "tgt_column": "de"}, "CSV"),
        ("x.jsonl", '{"src": "a", "tgt": "A"}\n{"tgt": "B", "src": "b"}\n', {}, "JSONL"),
        ("x.ndjson", '{"q": "a", "r": "A"}\n{"q": "b", "r": "B"}\n', {"src_column": "q", "tgt_column": "r"}, "JSONL"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_one_file_of_each_form(folder, name, content, options, form, ending):
    data = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[ending](content.encode())
    source = TextSource(write(name + ending, data), **options)
    assert source.form == form and source.name == name + ending
    assert texts(source) == [("a", "A"), ("b", "B")] == texts(source)  # the same each time


def test_parquet_and_hugging_face(folder):
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("datasets")
    os.mkdir("data")
    pq.write_table(pa.table({"src": ["a", "b"], "tgt": ["A", "B"]}), "data/train.parquet")
    local = TextSource(f"hf://{folder}/data")
    for source in (TextSource("data/train.parquet"), local):
        assert texts(source) == [("a", "A"), ("b", "B")]
    assert local.form == "Hugging Face" and local.paths == []
    before = local.fingerprint()
    assert before == local.fingerprint()
    pq.write_table(pa.table({"src": ["a", "b"], "tgt": ["A", "C"]}), "data/train.parquet")
    assert TextSource(f"hf://{folder}/data").fingerprint() != before


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_prefix_with_suffixes(folder, ending, compress):
    write("train.en" + ending, compress(b"a\nb\n"))
    write("train.de", "A\nB\n")
    source = TextSource("train", src_suffix="en", tgt_suffix="de")
    assert texts(source) == [("a", "A"), ("b", "B")]
    assert [str(path) for path in source.paths] == ["train.en" + ending, "train.de"]
    assert source.name == "train.en + train.de"


def test_prefix_that_leads_to_no_file_or_to_two(folder):
    source = TextSource("train", src_suffix="en", tgt_suffix="de")
    with pytest.raises(DataError, match=r"^train\.en: no such file, nor with \.gz, \.bz2, \.xz, \.zst\. Fix: "):
        list(source)
    write("train.en", "a\n")
    write("train.en.gz", gzip.compress(b"b\n"))
    with pytest.raises(DataError, match=r"train\.en: there are several: train\.en, train\.en\.gz\. Fix: name the two"):
        list(source)


def test_a_prefix_that_is_too_long_for_a_name(folder):
    with pytest.raises(DataError, match=r"^a{300}\.en: cannot be read: File name too long\. Fix: ") as caught:
        list(TextSource("a" * 300, src_suffix="en", tgt_suffix="de"))
    assert caught.value.exit_code == 3


def test_a_plain_file_named_gz_is_plain_and_compression_needs_no_name(folder):
    write("x.gz", "a\nb\n")
    write("y", gzip.compress(b"A\nB\n"))
    assert texts(TextSource("x.gz", "y")) == [("a", "A"), ("b", "B")]


def test_pairs_kept_equal_the_oracle_on_500_files_with_blank_lines(folder):
    rng = random.Random(0)
    blanks = ["", " ", "\t", "\u3000", "\u2028", " \r", "\x0b"]
    seen_blank = seen_full = 0
    for _ in range(500):
        pairs = [[rng.choice([*blanks, "x y", "é"]) for _ in range(2)] for _ in range(rng.randrange(1, 12))]
        write("x.en", "".join(f"{src}\n" for src, _ in pairs))
        write("x.de", "".join(f"{tgt}\r\n" for _, tgt in pairs))
        kept = [TextPair(src, tgt, i) for i, (src, tgt) in enumerate(pairs, 1) if src.strip() and tgt.strip()]
        if kept:
            assert list(TextSource("x.en", "x.de", on_blank="drop")) == kept
            seen_full += 1
        else:
            with pytest.raises(DataError, match=f"no pair is left: {len(pairs)} of {len(pairs)} have a blank side"):
                list(TextSource("x.en", "x.de", on_blank="drop"))
        if len(kept) < len(pairs):
            bad = next(i for i, pair in enumerate(pairs) if not all(text.strip() for text in pair))
            src, tgt = (not text.strip() for text in pairs[bad])
            side = "both sides of the pair are" if src and tgt else "the source is" if src else "the target is"
            where = f"x.{'en' if src else 'de'}:{bad + 1}"
            with pytest.raises(DataError, match=rf"^{where}: {side} blank\. Fix: .* with data\.on_blank=drop\.$"):
                list(TextSource("x.en", "x.de"))
            seen_blank += 1
    assert seen_blank > 300 and seen_full > 100


def test_the_same_blank_policy_for_one_file(folder):
    write("x.tsv", "a\tA\n\t\n\nb\t\n\tC\nd\tD\n")
    assert texts(TextSource("x.tsv", on_blank="drop")) == [("a", "A"), ("d", "D")]
    with pytest.raises(DataError, match=r"^x\.tsv:2: both sides of the pair are blank"):
        list(TextSource("x.tsv"))
    assert [blank_side(item) for item in TextSource("x.tsv").scan()] == [None, "both", "both", "target", "source", None]


def test_the_last_whole_pass_tells_what_it_dropped(folder):
    source = TextSource(write("x.tsv", "a\tA\n\t\nb\t\nc\tC\n"), on_blank="drop")
    before = hash(source)
    assert source.dropped == 0 and texts(source) == texts(source) and source.dropped == 2
    assert hash(source) == before and source == TextSource("x.tsv", on_blank="drop")
    write("x.tsv", "a\tA\n")
    assert texts(source) == [("a", "A")] and source.dropped == 0


@pytest.mark.parametrize("swap", [False, True])
def test_each_unusable_file_is_one_line_with_a_fix(folder, swap):
    write("ok", "a\nb\n")
    os.mkdir("folder")
    write("empty", "")
    write("one", "a")
    write("cut.gz", gzip.compress("".join(f"{i}\n" for i in range(5000)).encode())[:-200])
    for name, what in [
        ("none", "none: no such file"),
        ("folder", "folder: is a folder, not a file"),
        ("empty", "empty: is empty (0 bytes)"),
        ("cut.gz", "cut.gz: the gzip data are cut off"),
        ("one", "one has 1 lines, ok 2; " if swap else "ok has 2 lines, one 1; "),
    ]:
        with pytest.raises(DataError) as caught:
            list(TextSource(name, "ok") if swap else TextSource("ok", name))
        message = str(caught.value)
        assert what in message and "\n" not in message and message.count("Fix: ") == 1
    assert texts(TextSource("one", "one")) == [("a", "a")]


def test_reading_stops_at_a_bad_byte_and_scanning_goes_on(folder):
    source = two_files(b"a\n\xe9\nc\n", "A\nB\nC\n")
    with pytest.raises(Fault, match=r"^x\.en:2:1: byte 0xe9 is not UTF-8"):
        list(source)
    items = list(source.scan())
    assert [item.line for item in items if isinstance(item, TextPair)] == [1, 3] and isinstance(items[1], Fault)


def test_line_ends_inside_a_line_stay(folder):
    source = two_files("\ufeffa\u2028b\r\nc\u0085\x0bd\re\n", "A\nB")
    assert texts(source) == [("a\u2028b", "A"), ("c\u0085\x0bd\re", "B")]
    assert source.remarks() == ["x.en: the byte order mark at its start is not read"]


def test_remarks_say_how_a_csv_file_is_read(folder):
    write("x.csv", "Source,n,target\na,1,A\n")
    assert TextSource("x.csv").remarks() == [
        "x.csv: has a header; source is column 'Source', target is column 'target'"
    ]
    write("x.csv", "hello,hallo\n")
    remark = "x.csv: has no header with known names; its first record is a pair: 'hello', 'hallo'"
    assert TextSource("x.csv").remarks() == [remark]
    assert two_files().remarks() == []


def test_fingerprint_is_of_bytes_and_options_not_of_names_or_weight(folder):
    first = two_files().fingerprint()
    assert len(first) == 64
    assert two_files(weight=3.0).fingerprint() == first
    assert TextSource(write("p", "a\nb\n"), write("q", "A\nB\n")).fingerprint() == first
    write("t.tsv", "a\tA\nb\tB\n")
    others = [
        two_files(src="a\nc\n").fingerprint(),
        two_files(tgt="A\nB").fingerprint(),
        two_files(on_blank="drop").fingerprint(),
        TextSource("x.de", "x.en").fingerprint(),
        TextSource("t.tsv").fingerprint(),
        TextSource("t.tsv", src_column="2", tgt_column="1").fingerprint(),
    ]
    assert len({first, *others}) == 7


def test_fingerprint_of_a_file_that_has_changed_or_gone(folder):
    source = two_files()
    first = source.fingerprint()
    write("x.de", "A\nC\n")
    assert source.fingerprint() != first
    os.remove("x.de")
    with pytest.raises(DataError, match=r"x\.de: no such file"):
        source.fingerprint()


def test_a_data_set_that_cannot_be_loaded_has_no_fingerprint(monkeypatch):
    def unreachable(address, *, columns):
        yield TextPair("a", "A", 1)
        raise Fault("file", "cannot be loaded: no network", where=address, fix="see the network")

    monkeypatch.setattr("pytorch_dl.dataset.text_files.read_hf", unreachable)
    with pytest.raises(Fault, match=r"^hf://org/name: cannot be loaded: no network") as caught:
        TextSource("hf://org/name").fingerprint()
    assert caught.value.kind == "file"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"src": ""}, "no file is named"),
        ({"weight": 0.0}, "expected a weight over 0, got 0.0"),
        ({"weight": float("nan")}, "expected a weight over 0, got nan"),
        ({"on_blank": "skip"}, "expected on_blank error or drop, got skip"),
        ({"src_suffix": "en"}, r"src_suffix \(en\) and tgt_suffix \(None\) go together"),
        ({"tgt_column": "2"}, r"src_column \(None\) and tgt_column \(2\) go together"),
        ({"tgt": "y", "src_suffix": "en", "tgt_suffix": "de"}, "the target file y is one side too many"),
        ({"src": "hf://a/b", "tgt": "y"}, "the target file y is one side too many"),
        ({"tgt": "y", "src_column": "1", "tgt_column": "2"}, "two files have no column 1"),
        ({"src_column": "en", "tgt_column": "de"}, "expected numbers of columns, got en and de"),
        ({"src_column": "0", "tgt_column": "1"}, "expected numbers of columns, got 0 and 1"),
    ],
)
def test_contradicting_options(options, message):
    with pytest.raises(ConfigError, match=rf"{message}\. Fix: "):
        TextSource(**{"src": "x", **options})


def test_millions_of_lines_take_little_memory(folder):
    line = json.dumps({"src": "a" * 50, "tgt": "b" * 50}) + "\n"
    write("x.jsonl.gz", gzip.compress(line.encode() * 200_000, compresslevel=1))
    tracemalloc.start()
    try:
        assert sum(1 for _ in zip(range(50_000), TextSource("x.jsonl.gz"), strict=False)) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
