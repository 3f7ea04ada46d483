"""Pairs from records with named fields: JSON lines, Parquet, and data sets of Hugging Face.

The texts are the fields that the caller names, src and tgt, source and target, or the two languages of a field
`translation`; which of these is told from the first record and holds for all.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_dl.dataset.compression import check_file
from pytorch_dl.dataset.text_lines import decode, read_lines
from pytorch_dl.dataset.text_pair import COLUMN_NAMES, NAME_COLUMNS, Columns, Fault, TextPair
from pytorch_dl.errors import DataError

Record = Mapping[str, object]
Keys = tuple[str, ...]  # the way to a text inside a record
_BATCH_ROWS = 4096
_NEEDS_HF = "pip install 'pytorch-dl[hf]'"
_SAFE_DATASETS = 4  # from this version on the library runs no script that lies in a data set
_NESTED = "translation"


def read_jsonl(path: Path, *, columns: Columns | None) -> Iterator[TextPair | Fault]:
    """Yield the pairs of a file with one JSON object a line."""
    rows = ((line, _json_record(raw, path=path, line=line)) for line, raw in enumerate(read_lines(path), 1))
    return pairs_of_records(rows, name=str(path), columns=columns)


def read_parquet(path: Path, *, columns: Columns | None) -> Iterator[TextPair | Fault]:
    """Yield the pairs of a Parquet file, read in batches of rows."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise Fault("file", "Parquet needs pyarrow, which is not installed", where=str(path), fix=_NEEDS_HF) from error
    check_file(path)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            shape = {
                field.name: {inner.name: "" for inner in field.type} if pa.types.is_struct(field.type) else ""
                for field in schema
            }
            keys = pair_keys(shape, columns=columns, where=str(path))
            batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=sorted({key[0] for key in keys}))
            yield from pairs_of_records(_parquet_rows(batches, path=path), name=str(path), columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise Fault(
            "file", f"cannot be read as Parquet: {error}", where=str(path), fix="write the file again"
        ) from error


def read_hf(address: str, *, columns: Columns | None) -> Iterator[TextPair | Fault]:
    """Yield the pairs of `hf://org/name[/config][#split]`, or of a local folder in place of org/name (split: train)."""
    try:
        import datasets
    except ImportError as error:
        raise Fault(
            "file", "needs the library datasets, which is not installed", where=address, fix=_NEEDS_HF
        ) from error
    version = datasets.__version__
    if int(version.split(".")[0]) < _SAFE_DATASETS:
        what = f"needs datasets {_SAFE_DATASETS} or later, as older ones run scripts of a data set; got {version}"
        raise Fault("file", what, where=address, fix=_NEEDS_HF)
    location, _, split = address.removeprefix("hf://").partition("#")
    name, config = location, None
    if not Path(location).is_dir() and location.count("/") == 2:
        name, config = location.rsplit("/", 1)
    try:
        rows = datasets.load_dataset(name, config, split=split or "train", streaming=True)
        yield from pairs_of_records(enumerate(rows, 1), name=address, columns=columns)
    except DataError:
        raise
    except Exception as error:  # the library lets errors of many others through: network, hub, readers of each format
        what = f"cannot be loaded: {type(error).__name__}: {error}"
        raise Fault(
            "file", what, where=address, fix="see hf://ORG/NAME[/CONFIG]#SPLIT, the network and the login"
        ) from error


def pair_keys(record: Record, *, columns: Columns | None, where: str) -> tuple[Keys, Keys]:
    """Tell from one record where the two texts are; a Fault lists the names that there are."""
    nested = record.get(_NESTED)
    languages = list(nested) if isinstance(nested, Mapping) else []
    for src, tgt in [columns] if columns else COLUMN_NAMES:
        if src in record and tgt in record:
            return (src,), (tgt,)
    if columns is None and len(languages) == 2:
        return (_NESTED, languages[0]), (_NESTED, languages[1])
    named = [name.removeprefix(f"{_NESTED}.") for name in columns or ()]  # as they are listed below
    if named and all(name in languages for name in named):
        return (_NESTED, named[0]), (_NESTED, named[1])
    names = [name for name in record if name != _NESTED or not languages]
    there = ", ".join(names + [f"{_NESTED}.{language}" for language in languages]) or "none"
    wanted = " and ".join(columns or COLUMN_NAMES[0])
    raise Fault("columns", f"expected columns {wanted}, got {there}", where=where, fix=NAME_COLUMNS)


def pairs_of_records(
    rows: Iterable[tuple[int, Record | Fault]], *, name: str, columns: Columns | None
) -> Iterator[TextPair | Fault]:
    """Yield the pair of each (number, record); where its texts are is told from the first record."""
    keys: tuple[Keys, Keys] | None = None
    for line, record in rows:
        if isinstance(record, Fault):
            yield record
            continue
        if not record:
            yield TextPair("", "", line)
            continue
        where = f"{name}:{line}"
        keys = keys or pair_keys(record, columns=columns, where=where)
        try:
            pair = TextPair(_text(record, keys[0], where=where), _text(record, keys[1], where=where), line)
        except Fault as fault:
            yield fault
        else:
            yield pair


def _text(record: Record, keys: Keys, *, where: str) -> str:
    """The text that `keys` lead to; null stands for a blank text."""
    value: object = record
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            raise Fault("values", f"{'.'.join(keys)} is missing", where=where, fix="write it, or remove the record")
        value = value[key]
    if value is None:
        return ""
    if not isinstance(value, str):
        what = f"{'.'.join(keys)} is {json.dumps(value, default=repr)[:80]}, expected a text"
        raise Fault("values", what, where=where, fix="write it in quotes, or name another column")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"{'.'.join(keys)} holds half a character (\\u{ord(value[error.start]):04x}), no text"
        raise Fault("encoding", what, where=where, fix="correct or remove the record") from error
    if "\0" in value:
        what = f"{'.'.join(keys)} holds a NUL character, no text"
        raise Fault("nul", what, where=where, fix="remove the character")
    return value


def _json_record(raw: bytes, *, path: Path, line: int) -> Record | Fault:
    if not raw.strip():
        return {}
    fix = "write one JSON object on each line"
    try:
        record = json.loads(decode(raw, path=path, line=line))
    except Fault as fault:
        return fault
    except json.JSONDecodeError as error:
        return Fault("json", f"is no valid JSON: {error.msg}", where=f"{path}:{line}:{error.colno}", fix=fix)
    except (ValueError, RecursionError) as error:  # a number of too many digits, nested too deep
        return Fault("json", f"is no usable JSON: {error}", where=f"{path}:{line}", fix=fix)
    if not isinstance(record, dict) or not record:
        return Fault(
            "json", f"expected a JSON object, got {raw[:20].decode(errors='ignore')}", where=f"{path}:{line}", fix=fix
        )
    return record


def _parquet_rows(batches: Iterable[Any], *, path: Path) -> Iterator[tuple[int, Record | Fault]]:
    row = 0
    for batch in batches:
        try:
            rows: list[Record | Fault] = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_parquet_row(batch, i, where=f"{path}:{row + i + 1}") for i in range(batch.num_rows)]
        for record in rows:
            row += 1
            yield row, record


def _parquet_row(batch: Any, index: int, *, where: str) -> Record | Fault:
    try:
        return {name: batch.column(name)[index].as_py() for name in batch.schema.names}
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        return Fault("encoding", f"byte 0x{byte:02x} is not UTF-8", where=where, fix="write the row again as UTF-8")
