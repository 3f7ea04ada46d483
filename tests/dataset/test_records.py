import builtins
import json

import pytest

from pytorch_dl.dataset.records import read_hf, read_jsonl, read_parquet
from pytorch_dl.dataset.text_pair import Fault, TextPair


def jsonl(tmp_path, *records, columns=None):
    path = tmp_path / "f.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return list(read_jsonl(path, columns=columns))


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"tgt": "T", "id": 1, "src": "S"}, None),
        ({"target": "T", "source": "S"}, None),
        ({"translation": {"en": "S", "de": "T"}}, None),
        ({"translation": {"de": "T", "fr": "F", "en": "S"}}, ("en", "de")),
        ({"src": "no", "tgt": "no", "a": "S", "b": "T"}, ("a", "b")),
    ],
)
def test_where_the_texts_are(tmp_path, record, columns):
    assert jsonl(tmp_path, record, columns=columns) == [TextPair("S", "T", 1)]


def test_the_first_record_decides_the_languages(tmp_path):
    one, two = {"translation": {"en": "S", "de": "T"}}, {"translation": {"de": "T2", "en": "S2"}}
    assert jsonl(tmp_path, one, two) == [TextPair("S", "T", 1), TextPair("S2", "T2", 2)]


def test_unknown_fields_are_listed(tmp_path):
    with pytest.raises(Fault, match=r"f\.jsonl:1: expected columns src and tgt, got a, translation\.x\. Fix: name"):
        jsonl(tmp_path, {"a": "1", "translation": {"x": ""}})
    with pytest.raises(Fault, match="expected columns a and c, got a, b"):
        jsonl(tmp_path, {"a": "1", "b": "2"}, columns=("a", "c"))


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        ('{"src": "a", "tgt": }', "json", r":2:21: is no valid JSON: Expecting value\. Fix: write one JSON object"),
        ("[1]", "json", r":2: expected a JSON object, got \[1\]"),
        ("{}", "json", ":2: expected a JSON object"),
        ("[" * 100_000, "json", ":2: is no usable JSON"),
        ('{"src": ' + "1" * 5000 + "}", "json", ":2: is no usable JSON"),
        ({"src": "a"}, "values", r":2: tgt is missing\. Fix: write it"),
        ({"src": "a", "tgt": 5}, "values", ":2: tgt is 5, expected a text"),
        ('{"src": "a", "tgt": "\\ud83d"}', "encoding", r":2: tgt holds half a character \(\\ud83d\)"),
        ({"src": "a\0", "tgt": "b"}, "nul", ":2: src holds a NUL character"),
    ],
)
def test_a_bad_record_is_named_and_the_rest_is_read(tmp_path, bad, kind, message):
    items = jsonl(tmp_path, {"src": "1", "tgt": "1"}, bad, {"src": "3", "tgt": "3"})
    assert [items[0], items[2]] == [TextPair("1", "1", 1), TextPair("3", "3", 3)]
    assert items[1].kind == kind
    with pytest.raises(Fault, match=rf"f\.jsonl{message}"):
        raise items[1]


def test_languages_are_named_alone_or_as_they_are_listed(tmp_path):
    record = {"translation": {"en": "S", "fr": "F", "de": "T"}}
    (tmp_path / "f.jsonl").write_text(json.dumps(record))
    with pytest.raises(Fault, match=r"got translation\.en, translation\.fr, translation\.de\. Fix: name the two"):
        list(read_jsonl(tmp_path / "f.jsonl", columns=None))
    for columns in (("en", "de"), ("translation.en", "translation.de"), ("en", "translation.de")):
        assert list(read_jsonl(tmp_path / "f.jsonl", columns=columns)) == [TextPair("S", "T", 1)]


def test_null_and_blank_lines_are_blank_texts(tmp_path):
    items = jsonl(tmp_path, "", {"src": "a", "tgt": None}, " ")
    assert items == [TextPair("", "", 1), TextPair("a", "", 2), TextPair("", "", 3)]


class TestParquet:
    def write(self, path, table):
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
        return path

    def test_batches_of_rows_with_texts_in_any_string_type(self, tmp_path, monkeypatch):
        pa = pytest.importorskip("pyarrow")
        monkeypatch.setattr("pytorch_dl.dataset.records._BATCH_ROWS", 7)
        src = [f"s{i}" for i in range(50)]
        tgt = [None if i == 3 else f"t{i}" for i in range(50)]
        table = pa.table(
            {"x": [[1]] * 50, "target": pa.array(tgt, pa.large_string()), "source": pa.array(src).dictionary_encode()}
        )
        items = list(read_parquet(self.write(tmp_path / "f", table), columns=None))
        assert items == [TextPair(f"s{i}", "" if i == 3 else f"t{i}", i + 1) for i in range(50)]

    def test_translation_and_named_columns(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        table = pa.table({"translation": [{"en": "S", "de": "T"}], "number": [3]})
        path = self.write(tmp_path / "f", table)
        assert list(read_parquet(path, columns=None)) == [TextPair("S", "T", 1)]
        for columns in (("de", "en"), ("translation.de", "translation.en")):
            assert list(read_parquet(path, columns=columns)) == [TextPair("T", "S", 1)]
        with pytest.raises(Fault, match=r"expected columns a and b, got number, translation\.en, translation\.de"):
            list(read_parquet(path, columns=("a", "b")))

    def test_faults(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        bad = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
        items = list(
            read_parquet(self.write(tmp_path / "f", pa.table({"src": bad, "tgt": ["x", "y", "z"]})), columns=None)
        )
        assert [items[0], items[2]] == [TextPair("a", "x", 1), TextPair("c", "z", 3)]
        assert items[1].where == f"{tmp_path}/f:2" and "byte 0xff is not UTF-8" in str(items[1])
        (tmp_path / "g").write_text("no parquet")
        for name, what in (("g", "cannot be read as Parquet"), ("none", "no such file")):
            with pytest.raises(Fault, match=f"{name}: {what}"):
                list(read_parquet(tmp_path / name, columns=None))


def test_hugging_face_from_a_local_folder(tmp_path):
    pytest.importorskip("datasets")
    for split in ("train", "test"):
        rows = [json.dumps({"translation": {"en": f"{split} s{i}", "de": f"t{i}"}}) for i in range(3)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    pairs = list(read_hf(f"hf://{tmp_path}#test", columns=None))
    assert pairs == [TextPair(f"test s{i}", f"t{i}", i + 1) for i in range(3)]
    assert next(iter(read_hf(f"hf://{tmp_path}", columns=("de", "en")))) == TextPair("t0", "train s0", 1)
    with pytest.raises(Fault, match=r"#nosplit: cannot be loaded: ValueError: .*nosplit"):
        list(read_hf(f"hf://{tmp_path}#nosplit", columns=None))


def test_a_library_that_would_run_scripts_is_refused(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(Fault) as caught:
        list(read_hf("hf://org/name", columns=None))
    assert str(caught.value) == (
        "hf://org/name: needs datasets 4 or later, as older ones run scripts of a data set; got 3.6.0. "
        "Fix: pip install 'pytorch-dl[hf]'."
    )


@pytest.mark.parametrize(("reader", "library"), [(read_parquet, "pyarrow"), (read_hf, "datasets")])
def test_a_missing_library_is_named_with_its_command(monkeypatch, reader, library):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == library:
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Fault, match=rf"{library}, which is not installed\. Fix: pip install 'pytorch-dl\[hf\]'"):
        list(reader("hf://x", columns=None))
