"""Pairs from two files, line by line."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from pytorch_dl.dataset.alignment import Lengths, first_gap
from pytorch_dl.dataset.text_lines import decode, read_lines
from pytorch_dl.dataset.text_pair import Fault, TextPair


def read_two_files(src: Path, tgt: Path) -> Iterator[TextPair | Fault]:
    """Yield line n of `src` with line n of `tgt`; at the end a Fault when one has more lines, and where they part."""
    src_lines, tgt_lines = read_lines(src), read_lines(tgt)
    for line, (src_raw, tgt_raw) in enumerate(zip_longest(src_lines, tgt_lines), 1):
        if src_raw is None:
            yield _unequal(src, tgt, src_count=line - 1, tgt_count=line + sum(1 for _ in tgt_lines))
        elif tgt_raw is None:
            yield _unequal(src, tgt, src_count=line + sum(1 for _ in src_lines), tgt_count=line - 1)
        else:
            try:
                pair = TextPair(decode(src_raw, path=src, line=line), decode(tgt_raw, path=tgt, line=line), line)
            except Fault as fault:
                yield fault
            else:
                yield pair


def _unequal(src: Path, tgt: Path, *, src_count: int, tgt_count: int) -> Fault:
    short, long = (src, tgt) if src_count < tgt_count else (tgt, src)
    short_count, long_count = sorted((src_count, tgt_count))
    short_lengths, long_lengths = _lengths(short, count=short_count), _lengths(long, count=long_count)
    gap = first_gap(short_lengths, long_lengths)
    where, missing = str(short), long_count - short_count
    if gap is None:
        place = "the lengths of the lines do not tell where they part"
    elif gap == short_count:
        place = "the lengths of the lines go together to the end, so that lines seem to be missing there"
    else:
        where, place = f"{short}:{gap + 1}", f"the lengths of the lines first look shifted near line {gap + 1}"
    what = f"{src} has {src_count} lines, {tgt} {tgt_count}; {place}"
    fix = f"restore {missing} missing line{'s' * (missing > 1)} of {short}, or remove the extra from {long}"
    return Fault("counts", what, where=where, fix=fix)


def _lengths(path: Path, *, count: int) -> Lengths:
    return np.fromiter((len(line) for line in read_lines(path)), dtype=np.int32, count=count)
