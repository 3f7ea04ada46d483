"""YAML 1.2 and JSON to plain values, and all that is refused."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytorch_dl.config.reader import MAX_BYTES, MAX_DEPTH, MAX_EVENTS, plain_scalar, read_file, read_text
from pytorch_dl.errors import ConfigError

SCALARS = [  # the core schema of YAML 1.2, and the words that YAML 1.1 takes for something else
    ("null", None),
    ("Null", None),
    ("~", None),
    ("", None),
    ("nULL", "nULL"),
    ("true", True),
    ("True", True),
    ("FALSE", False),
    ("tRUE", "tRUE"),
    ("yes", "yes"),
    ("no", "no"),
    ("No", "No"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("n", "n"),
    ("0", 0),
    ("42", 42),
    ("-42", -42),
    ("+7", 7),
    ("010", 10),
    ("08", 8),
    ("0o10", 8),
    ("0x1F", 31),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("12:30", "12:30"),
    ("1:2:3", "1:2:3"),
    ("1e-4", 1e-4),
    ("1E5", 1e5),
    ("5e3", 5000.0),
    ("1.", 1.0),
    (".5", 0.5),
    ("-1.5e+3", -1500.0),
    ("+.5", 0.5),
    ("1e", "1e"),
    ("e5", "e5"),
    (".", "."),
    (".inf", math.inf),
    ("-.Inf", -math.inf),
    ("inf", "inf"),
    ("nan", "nan"),
    ("2001-01-01", "2001-01-01"),
    ("=", "="),
    ("<<", "<<"),
    ("1.2.3", "1.2.3"),
    ("a b", "a b"),
    ("٣", "٣"),
    ('"42"', "42"),
    ("'true'", "true"),
    ('""', ""),
    ('"\\ud83d\\ude00"', "\U0001f600"),
]


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        read_text(text, where="file.yaml")
    return str(error.value)


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text for text, _ in SCALARS])
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    for document in (f"key: {text}", f"{{key: {text}}}", f"key:\n- {text}\n"):
        tree, _ = read_text(document, where="file.yaml")
        found = tree["key"][0] if isinstance(tree["key"], list) else tree["key"]
        assert found == value
        assert type(found) is type(value)


def test_not_a_number() -> None:
    assert all(math.isnan(plain_scalar(word)) for word in (".nan", ".NaN", ".NAN"))


def test_block_text_is_text() -> None:
    assert read_text("a: |\n  12\nb: >-\n  1\n  2\n", where="")[0] == {"a": "12\n", "b": "1 2"}


def test_lines_of_each_field() -> None:
    text = "# comment\nmodel:\n  d_model: 5\n\ndata:\n  corpora:\n  - src: a\n    weight: 2\n  - {src: b}\n"
    tree, lines = read_text(text, where="file.yaml")
    assert tree == {"model": {"d_model": 5}, "data": {"corpora": [{"src": "a", "weight": 2}, {"src": "b"}]}}
    assert lines == {
        "model": 2,
        "model.d_model": 3,
        "data": 5,
        "data.corpora": 6,
        "data.corpora.0.src": 7,
        "data.corpora.0.weight": 8,
        "data.corpora.1.src": 9,
    }


def test_nothing_is_nothing() -> None:
    assert read_text("", where="") == (None, {})
    assert read_text("# only a comment\n", where="") == (None, {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from([None, 2, "\t"]), st.booleans())
@example({"a": "\x85\x80\u2028\ufeff\u0007\uffff end "}, None, False)
def test_json_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, value: object, indent: int | str | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=ascii_only), "utf-8")
    assert read_file(path)[0] == value


def test_json_may_be_indented_by_tabs(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{\n\t"model":\n\t{"d_model":\t64}\n}')
    assert read_file(path) == ({"model": {"d_model": 64}}, {"model": 2, "model.d_model": 3})


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: 1\r\n")
    assert read_file(path)[0] == {"model": 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: &x 1\nb: *x", 1), ("a: 1\nb: &x [2]", 2), ("a: 1\n\nb: {c: *x}", 3), ("&x a: 1", 1), ("a: &x {b: 1}", 1)],
)
def test_anchors_are_refused(text: str, line: int) -> None:
    assert refused(text) == f"file.yaml:{line}: anchors and aliases are not read. Fix: write the value out."


def test_a_billion_laughs_are_refused_at_the_first() -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 99))
    assert refused(text).startswith("file.yaml:1: anchors")


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a: !!python/object/apply:os.system ['true']", "tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!python/object:os.system {}", "tag:yaml.org,2002:python/object:os.system"),
        ("a: !!python/name:os.system", "tag:yaml.org,2002:python/name:os.system"),
        ("!!python/object:os.system {}", "tag:yaml.org,2002:python/object:os.system"),
        ("!!python/name:os.system : 1", "tag:yaml.org,2002:python/name:os.system"),
        ("a: !!binary aGVsbG8=", "tag:yaml.org,2002:binary"),
        ("a: !!str 5", "tag:yaml.org,2002:str"),
        ("a: !local {b: 1}", "!local"),
        ("a: !!set {b}", "tag:yaml.org,2002:set"),
        ("a: ! 5", "!"),
    ],
)
def test_tags_are_refused(text: str, tag: str) -> None:
    assert refused(text) == f"file.yaml:1: the tag {tag} is not read. Fix: write the value without it."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "file.yaml:3: a is set twice, first in line 1. Fix: delete one."),
        ("m:\n  a: 1\n  'a': 3", "file.yaml:3: m.a is set twice, first in line 2. Fix: delete one."),
        ('{"m": {"a": 1, "a": 1}}', "file.yaml:1: m.a is set twice, first in line 1. Fix: delete one."),
    ],
)
def test_duplicates_are_refused(text: str, message: str) -> None:
    assert refused(text) == message


def test_the_number_of_values_is_limited() -> None:
    assert len(read_text(f"[{'1,' * (MAX_EVENTS - 10)}]", where="")[0]) == MAX_EVENTS - 10
    start = time.perf_counter()
    message = "file.yaml:2: more than 20,000 values and keys. Fix: write less of them."
    assert refused("\n[" + "1," * (MAX_BYTES // 2 - 2) + "]") == message
    assert time.perf_counter() - start < 10


def test_depth_is_limited() -> None:
    depth = MAX_DEPTH
    assert read_text("[" * depth + "]" * depth, where="")[0] is not None
    assert refused("\n" + "[" * (depth + 1) + "]" * (depth + 1)) == "file.yaml:2: nested deeper than 20 levels."[:-1]
    assert refused("[" * 100_000).startswith("file.yaml:1: nested deeper")
    assert refused("\n".join("  " * i + "a:" for i in range(50))) == "file.yaml:21: nested deeper than 20 levels"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "file.yaml:1:9: not readable as YAML or JSON: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n b: 2", "file.yaml:2:3: not readable as YAML or JSON: mapping values are not allowed here"),
        (
            "a:\n\tb: 2",
            "file.yaml:2:1: not readable as YAML or JSON: found character '\\t' that cannot start any token",
        ),
        ("a: 1\n---\nb: 2", "file.yaml:2:1: not readable as YAML or JSON: but found another document"),
        ("a: %x", "file.yaml:1:4: not readable as YAML or JSON: found character '%' that cannot start any token"),
        ("[a]: 1", "file.yaml:1: a key is a list or a mapping. Fix: write KEY: VALUE."),
        ("? {a: 1}\n: 2", "file.yaml:1: a key is a list or a mapping. Fix: write KEY: VALUE."),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, message: str) -> None:
    assert refused(text) == message


def test_control_characters_are_refused() -> None:
    assert "unacceptable character #x0000" in refused("a: \x00")


@pytest.mark.parametrize("number", ["9" * 101, "0x" + "f" * 5000])
def test_numbers_of_hundreds_of_digits_are_refused(number: str) -> None:
    assert refused("a:\n  b: " + number) == (
        f"file.yaml:2: a.b: a number of {len(number):,} characters is over the limit of 100. "
        "Fix: use plain numbers and words."
    )
    assert plain_scalar("9" * 100) == int("9" * 100)


def test_half_a_character_is_refused() -> None:
    for text in ('a: "\\ud83d"', '"\\ud83d": a'):
        assert refused(text) == "file.yaml:1: '\\ud83d' holds half a character. Fix: write it whole."


def test_a_file_of_2_megabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("#" * (2 << 20))
    with pytest.raises(ConfigError) as error:
        read_file(path)
    assert str(error.value) == f"{path}: the file has 2,097,152 bytes, over the limit of 1,048,576"
    path.write_text("#" * MAX_BYTES)
    assert read_file(path) == (None, {})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing, folder, latin = tmp_path / "none.yaml", tmp_path / "folder", tmp_path / "latin.yaml"
    folder.mkdir()
    latin.write_bytes("a: b\nc: \xe9".encode("latin-1"))
    for path, message in (
        (missing, "no such configuration file. Fix: check the path, or start from `pytorch-dl config show tiny`."),
        (folder, "cannot be read: Is a directory"),
        (latin, "byte 8 is not UTF-8. Fix: save the file as UTF-8."),
    ):
        with pytest.raises(ConfigError) as error:
            read_file(path)
        assert str(error.value) == f"{path}: {message}"
        assert error.value.exit_code == 2


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t01.~", max_size=30) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_text(text, where="file.yaml")
    except ConfigError as error:
        assert str(error).startswith("file.yaml")
