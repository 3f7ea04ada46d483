"""The token ids of all pairs, memory-mapped: built once, found again by what they were made from.

A store lies in the folder of its key, the SHA-256 over text, tokenizers and layout. It is opened only when every byte
is as it was written, otherwise built anew; it never holds pickle.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pytorch_dl import files
from pytorch_dl.dataset.text_files import PairStream
from pytorch_dl.dataset.token_writer import ID_DTYPES, OFFSETS, TOKEN_FILES, write_token_files
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import DataError, ResourceError
from pytorch_dl.plain_files import open_plain

STORE_VERSION = 1  # raise it when the same text and tokenizers would give other files
META = "meta.json"
_LOCK = ".build.lock"
_KEY_LENGTH = 16

Report = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """Pairs [start, stop) come from the stream `name` and appear `weight` times in an epoch."""

    name: str
    start: int
    stop: int
    weight: float


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Token ids of n pairs without begin and end ids, read only: pair i has src_ids[src_offsets[i]:src_offsets[i + 1]].

    Ids are flat uint16 or uint32, offsets (n + 1,) int64.
    """

    src_ids: np.ndarray
    src_offsets: np.ndarray
    tgt_ids: np.ndarray
    tgt_offsets: np.ndarray
    corpora: list[Corpus]
    texts: list[str]
    """Fingerprints of the streams that it was made from."""

    def __len__(self) -> int:
        return len(self.src_offsets) - 1

    def src(self, i: int) -> np.ndarray:
        """The source ids of pair i."""
        return self.src_ids[self.src_offsets[i] : self.src_offsets[i + 1]]

    def tgt(self, i: int) -> np.ndarray:
        """The target ids of pair i."""
        return self.tgt_ids[self.tgt_offsets[i] : self.tgt_offsets[i + 1]]

    def holds_the_same(self, other: "TokenStore") -> bool:
        """Whether both have the same pairs in the same order."""
        names = ("src_offsets", "tgt_offsets", "src_ids", "tgt_ids")  # the shorter arrays first
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    @functools.cached_property
    def src_lengths(self) -> np.ndarray:
        """Number of source tokens of each pair, (n,) int32."""
        return np.diff(self.src_offsets).astype(np.int32)

    @functools.cached_property
    def tgt_lengths(self) -> np.ndarray:
        """Number of target tokens of each pair, (n,) int32."""
        return np.diff(self.tgt_offsets).astype(np.int32)


def open_or_build(
    streams: Sequence[PairStream], tokenizers: TokenizerPair, *, cache_dir: Path, report: Report
) -> TokenStore:
    """Open the store of these texts and tokenizers under `cache_dir`, or build it there, in bounded memory.

    No pairs, or a text that changes meanwhile: DataError. A cache_dir that cannot be written: ResourceError.
    """
    parts = _key_parts(streams, tokenizers)
    folder = cache_dir / _sha256(parts)[:_KEY_LENGTH]
    if isinstance(found := _open(folder, streams, parts, tokenizers), TokenStore):
        return found
    with _only_builder(cache_dir, report):
        if isinstance(
            found := _open(folder, streams, parts, tokenizers), TokenStore
        ):  # built while this process waited
            return found
        if os.path.lexists(folder):
            report(f"token store {folder} is damaged ({found}); building it anew")
        else:
            report(f"token store: building {folder}{_what_changed(cache_dir, streams, parts)}")
        _build(folder, streams, tokenizers, parts=parts, report=report)
    if isinstance(found := _open(folder, streams, parts, tokenizers), TokenStore):
        return found
    raise ResourceError(f"the new token store reads back damaged: {found}", where=str(folder), fix="check this disk")


def stored_lengths(
    streams: Sequence[PairStream], tokenizers: TokenizerPair, *, cache_dir: Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """(n,) source and (n,) target tokens of each pair, of a store that is there; None where there is none.

    For figures: nothing but the offsets is read, and no checksum is compared.
    """
    folder = cache_dir / _sha256(_key_parts(streams, tokenizers))[:_KEY_LENGTH]
    try:
        meta = files.read_json(folder / META)
        sides = [_array(folder / f"{side}_offsets", meta) for side in ("src", "tgt")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    src, tgt = (np.diff(offsets) for offsets in sides)
    return src, tgt


def _key_parts(streams: Sequence[PairStream], tokenizers: TokenizerPair) -> dict[str, Any]:
    return {
        "version": STORE_VERSION,
        "texts": [stream.fingerprint() for stream in streams],
        "tokenizers": [tokenizers.src.fingerprint(), tokenizers.tgt.fingerprint()],
    }


def _build(
    folder: Path, streams: Sequence[PairStream], tokenizers: TokenizerPair, *, parts: dict[str, Any], report: Report
) -> None:
    with files.new_folder(folder) as new:
        counts = write_token_files(new, streams, tokenizers, report=report)
        for stream, fingerprint in zip(streams, parts["texts"], strict=True):
            if stream.fingerprint() != fingerprint:
                raise DataError(
                    "the text changed while it was read", where=stream.name, fix="run again when it is final"
                )
        names = [stream.name for stream in streams]
        files.write_json(new / META, {"parts": parts, "names": names, **counts})


def _open(
    folder: Path, streams: Sequence[PairStream], parts: dict[str, Any], tokenizers: TokenizerPair
) -> TokenStore | str:
    """Open a whole store made from `parts`, or say why it is none."""
    if damage := files.damage(folder):
        return damage
    try:
        manifest, meta = (files.read_json(folder / name) for name in (files.MANIFEST, META))
        if set(manifest) != {META, *TOKEN_FILES}:
            return f"{files.MANIFEST} names other files than those of a store"
        if meta["parts"] != parts:
            return "it was made from other text or tokenizers"
        arrays = {name: _array(folder / name, meta) for name in TOKEN_FILES}
        for side in ("src", "tgt"):
            _check_side(side, arrays[f"{side}_ids"], arrays[f"{side}_offsets"], getattr(tokenizers, side).vocab_size)
        return TokenStore(corpora=_corpora(streams, meta), texts=parts["texts"], **arrays)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{META} does not fit its files ({error})"


def _corpora(streams: Sequence[PairStream], meta: dict[str, Any]) -> list[Corpus]:
    starts, stops = zip(*meta["spans"], strict=True)
    if [*starts, meta["pairs"]] != [0, *stops]:
        raise ValueError(f"spans {meta['spans']} of {meta['pairs']} pairs")
    spans = zip(streams, starts, stops, strict=True)
    return [Corpus(stream.name, start, stop, stream.weight) for stream, start, stop in spans]


def _array(path: Path, meta: dict[str, Any]) -> np.ndarray:
    side, kind = path.name.split("_")
    dtype, length = (meta["dtype"], meta[f"{side}_tokens"]) if kind == "ids" else (OFFSETS, meta["pairs"] + 1)
    if dtype not in (OFFSETS, *ID_DTYPES):
        raise ValueError(f"dtype {dtype!r}")
    expected, got = length * np.dtype(dtype).itemsize, path.stat().st_size
    if got != expected:
        raise ValueError(f"{path.name} has {got} bytes, expected {expected}")
    if length == 0:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)  # a plain view slices faster than np.memmap


def _check_side(side: str, ids: np.ndarray, offsets: np.ndarray, vocab_size: int) -> None:
    """Right sums do not make numbers right: what is no place or no token would end in a crash much later."""
    if offsets[0] or offsets[-1] != len(ids) or (offsets[1:] < offsets[:-1]).any():
        raise ValueError(f"{side}_offsets do not rise from 0 to {len(ids)}")
    if (highest := int(ids.max(initial=0))) >= vocab_size:
        raise ValueError(f"{side}_ids go up to {highest}, the tokenizer has {vocab_size} tokens")


def _what_changed(cache_dir: Path, streams: Sequence[PairStream], parts: dict[str, Any]) -> str:
    """Tell by the newest store of the same names why it does not serve; nothing when there is none."""
    names = [stream.name for stream in streams]
    metas = sorted(cache_dir.glob(f"*/{META}"), key=lambda path: path.stat().st_mtime, reverse=True)
    former = next((parts for parts in map(functools.partial(_parts_of, names=names), metas) if parts), None)
    if former is None:
        return ""
    changed = [name for name, old, new in zip(names, former["texts"], parts["texts"], strict=False) if old != new]
    if former["tokenizers"] != parts["tokenizers"]:
        changed.append("the tokenizer")
    return f", because {' and '.join(changed) or 'the layout of stores'} changed since the last one"


def _parts_of(meta: Path, *, names: list[str]) -> dict[str, Any] | None:
    """The key parts of a store made from the streams `names`; None for any other file."""
    try:
        found = files.read_json(meta)
        parts = {name: list(found["parts"][name]) for name in ("texts", "tokenizers")}
        return parts if found["names"] == names else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextlib.contextmanager
def _only_builder(cache_dir: Path, report: Report) -> Iterator[None]:
    """Let one process at a time build under `cache_dir`; the system lets the next one in when a builder dies."""
    with contextlib.ExitStack() as stack:
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(cache_dir / _LOCK, "a", opener=open_plain))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"token store: another process is building in {cache_dir}; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise ResourceError(
                f"cannot build a token store here: {error.strerror}",
                where=str(cache_dir),
                fix="choose a data.cache_dir that you may write to",
            ) from error
        # With the lock held, an unfinished store is of a dead process; all else that lies here may be of a living one.
        files.remove_leftovers(cache_dir, names=f"[0-9a-f]{{{_KEY_LENGTH}}}")
        yield


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
