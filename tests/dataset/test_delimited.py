import csv
import io
import random

import pytest

from pytorch_dl.dataset import delimited
from pytorch_dl.dataset.delimited import read_csv, read_tsv
from pytorch_dl.dataset.text_pair import Fault, TextPair


def read(tmp_path, data, *, reader=read_csv, columns=None):
    path = tmp_path / "f"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(reader(path, columns=columns))


def texts(items):
    return [(item.src, item.tgt) for item in items]


def test_tsv_knows_no_quotes_and_no_missing_values(tmp_path):
    items = read(tmp_path, 'a "stray\tb\nNA\tnull\n"x"\t"y\r\n', reader=read_tsv)
    assert items == [TextPair('a "stray', "b", 1), TextPair("NA", "null", 2), TextPair('"x"', '"y', 3)]


def test_tsv_of_another_number_of_columns(tmp_path):
    items = read(tmp_path, "a\tb\nonly\n\na\tb\tc\nc\td\n", reader=read_tsv)
    assert texts([items[0], items[2], items[4]]) == [("a", "b"), ("", ""), ("c", "d")]
    assert "f:2: expected 2 columns with a tab between them, got 1. Fix: put one tab" in str(items[1])
    assert "f:4: expected 2 columns with a tab between them, got 3. Fix: mend the line; or" in str(items[3])


def test_tsv_with_numbered_columns(tmp_path):
    items = read(tmp_path, "a\tb\tc\nx\ty\n", reader=read_tsv, columns=("3", "1"))
    assert items[0] == TextPair("c", "a", 1)
    assert "f:2: expected at least 3 columns, got 2" in str(items[1])


def test_csv_equals_the_csv_module_on_random_records(tmp_path):
    rng = random.Random(0)
    pieces = ["a", "é", ",", '"', "\n", " ", "'", "\t", ";", "\u2028", "x y"]
    for _ in range(300):
        rows = [["".join(rng.choices(pieces, k=rng.randrange(1, 8))) + "." for _ in range(3)] for _ in range(5)]
        out = io.StringIO()
        csv.writer(out, quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])).writerows([["id", "src", "tgt"], *rows])
        assert texts(read(tmp_path, out.getvalue())) == [(row[1], row[2]) for row in rows]


@pytest.mark.parametrize(
    ("header", "columns", "expected"),
    [
        ("src,tgt", None, ("1", "2")),
        ("Target,\ufeffid, SOURCE ", None, ("3", "1")),
        ("en,de,fr", ("fr", "de"), ("3", "2")),
        ('"a,b",c', ("c", "a,b"), ("2", "1")),
    ],
)
def test_csv_header(tmp_path, header, columns, expected):
    width = header.count(",") + (0 if '"' in header else 1)
    row = ",".join("123"[:width])
    assert read(tmp_path, f"\ufeff{header}\r\n{row}\r\n", columns=columns) == [TextPair(*expected, 2)]


def test_csv_of_two_columns_without_a_known_header_is_read_from_its_first_record(tmp_path):
    assert texts(read(tmp_path, "\nhello,hallo\nyes,ja\n")) == [("", ""), ("hello", "hallo"), ("yes", "ja")]


def test_csv_that_does_not_say_where_the_texts_are(tmp_path):
    with pytest.raises(
        Fault, match=r"f:1: expected columns src and tgt in the header, got a, b, c\. Fix: name the two"
    ):
        read(tmp_path, "a,b,c\n1,2,3\n")
    with pytest.raises(Fault, match="expected columns en and de in the header, got en, fr"):
        read(tmp_path, "en,fr\n1,2\n", columns=("en", "de"))


def test_csv_records_span_lines_and_are_named_by_their_first(tmp_path):
    items = read(tmp_path, 'src,tgt\n"a\nb","c ""d"""\nx,y,z\ne,f\n')
    assert items[0] == TextPair("a\nb", 'c "d"', 2)
    assert "f:4: expected 2 columns as in the first record, got 3. Fix: quote a field that has a comma" in str(items[1])
    assert items[2] == TextPair("e", "f", 5)


def test_csv_stray_quotes_swallow_nothing_unseen(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "RECORD_LINES", 3)
    items = read(tmp_path, 'a,"b\nc,d\ne,f\ng,h\n')
    assert 'f:1: a quote " is never closed' in str(items[0])
    assert items[1:] == [TextPair("g", "h", 4)]
    items = read(tmp_path, 'a,b\n5" disk,x"y"\nc,d\n"k"l,m\n')
    assert "f:2: a quote" in str(items[1]) and len(items) == 2  # open to the end of the file
    items = read(tmp_path, 'a,b\n"k"l"",m\n')
    assert 'f:2: a quote " stands inside a field. Fix: put a field with "' in str(items[1])


def test_bytes_that_are_not_utf8(tmp_path):
    for reader, data in ((read_tsv, b"a\tb\nc\t\xffd\ne\tf\n"), (read_csv, b'a,b\n"c","\xff"\ne,f\n')):
        items = read(tmp_path, data, reader=reader)
        assert items[1].kind == "encoding" and ":2:" in items[1].where
        assert texts([items[0], items[2]]) == [("a", "b"), ("e", "f")]
    items = read(tmp_path, b'a,b\n"c\n\xff\n",d\ne,f\n')
    assert items[1].where.endswith("f:3:1") and items[2] == TextPair("e", "f", 5)
