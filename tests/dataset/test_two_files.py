import gzip
import random
import re

import numpy as np
import pytest
from odd_texts import translations

from pytorch_dl.dataset.alignment import first_gap, length_correlation, misaligned_blocks
from pytorch_dl.dataset.text_pair import Fault, TextPair
from pytorch_dl.dataset.two_files import read_two_files


def write(path, lines, compress=False):
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if compress else data)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_100_random_deletions_are_all_named(tmp_path, compress):
    rng = random.Random(1)
    pairs = translations(512)
    off = []
    for turn in range(100):
        sides = [[src for src, _ in pairs], [tgt for _, tgt in pairs]]
        gone, side = rng.randrange(512), turn % 2
        del sides[side][gone]
        src = write(tmp_path / "train.en", sides[0], compress)
        tgt = write(tmp_path / "train.de", sides[1], compress)
        *read, fault = read_two_files(src, tgt)
        assert len(read) == 511 and isinstance(fault, Fault) and fault.kind == "counts"
        counts = (511, 512) if side == 0 else (512, 511)
        assert f"{src} has {counts[0]} lines, {tgt} {counts[1]}; " in str(fault)
        assert f"restore 1 missing line of {(src, tgt)[side]}" in str(fault)
        near = re.search(r"look shifted near line (\d+)", str(fault))
        off.append(abs(int(near[1]) - gone - 1) if near else abs(511 - gone))
    assert np.median(off) <= 1 and np.percentile(off, 95) <= 6


def test_several_missing_lines_and_a_missing_end(tmp_path):
    pairs = translations(3000)
    src, tgt = ([len(pair[side]) for pair in pairs] for side in (0, 1))
    src, tgt = np.array(src), np.array(tgt)
    assert abs(first_gap(np.delete(tgt, [700, 1500, 2900]), src) - 700) < 12
    assert abs(first_gap(np.delete(tgt, range(1000, 1050)), src) - 1000) < 12
    assert 2880 <= first_gap(tgt[:2890], src) <= 2890
    assert first_gap(np.random.default_rng(0).permutation(tgt)[1:], src) is None
    src_file = write(tmp_path / "s", [pair[0] for pair in pairs])
    tgt_file = write(tmp_path / "t", ["x" * 30] * 2999)
    *_, fault = read_two_files(src_file, tgt_file)
    assert "s has 3000 lines, " in str(fault) and "t 2999; the lengths of the lines do not tell" in str(fault)


def test_unequal_tiny_files(tmp_path):
    *pairs, fault = read_two_files(write(tmp_path / "a", ["1"]), write(tmp_path / "b", ["1", "2", "3"]))
    assert pairs == [TextPair("1", "1", 1)]
    assert re.search(r"a has 1 lines, \S+b 3; .* restore 2 missing lines of \S+a, or remove", str(fault))


def test_a_bad_line_takes_its_pair_away_and_shifts_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"1\n\xff\n3\n4\n")
    (tmp_path / "b").write_bytes(b"1\n2\n3\n\x00\n")
    items = list(read_two_files(tmp_path / "a", tmp_path / "b"))
    assert [items[0], items[2]] == [TextPair("1", "1", 1), TextPair("3", "3", 3)]
    assert [items[1].kind, items[3].kind] == ["encoding", "nul"]
    assert [items[1].where, items[3].where] == [f"{tmp_path}/a:2:1", f"{tmp_path}/b:4:1"]


def test_length_correlation_and_blocks():
    src, tgt = (np.array([len(pair[side]) for pair in translations(5000)]) for side in (0, 1))
    assert length_correlation(src, tgt) > 0.8
    assert abs(length_correlation(src, np.roll(tgt, 1))) < 0.05
    assert length_correlation(src, np.full(5000, 7)) is None
    assert misaligned_blocks(src, tgt) == []
    shifted = np.concatenate([tgt[:2000], tgt[2001:3001], [9], tgt[3001:]])  # one line lost at 2000, one gained at 3000
    assert misaligned_blocks(src, shifted) == [2000]
    assert misaligned_blocks(src, np.roll(tgt, 1)) == []  # no good block to compare with: the correlation tells
