"""What is long: millions of lines, a twentieth of them bad, are read in the memory that thousands take."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytorch_dl.dataset.survey import survey
from pytorch_dl.dataset.text_files import TextSource

STATUS = Path("/proc/self/status")
QUICK, FULL = 20_000, 3_000_000  # lines
BYTES_A_PAIR = 28  # that the survey keeps; its arrays are made larger by an eighth at a time
GOOD = [
    (b"a house near the river", "ein Haus am Fluss \u2028 und \u0085 weiter".encode()),
    (b"they came\x0b late\r", "sie kamen sp\u00e4t </s> <pad>".encode()),
    ("\u5b57 \U0001f600 x\ry".encode(), b"one and two\r"),
]
BAD = {  # what is counted of each
    "encoding": [(b"caf\xe9", b"good"), (b"good", b"\xed\xa0\x80"), (b"\xc3", b"\xff")],
    "nul": [(b"a\0b", b"good"), (b"good", b"\0")],
    "source": [(b"", b"good"), ("\u3000\t".encode(), b"good")],
    "target": [(b"good", b" \r"), (b"good", "\u2028".encode())],
    "both": [(b"", b""), (b" ", b"\x0b")],
}


@pytest.mark.skipif(not STATUS.exists(), reason="memory is read in /proc")
def test_j2_many_lines_of_which_some_are_bad(case, tmp_path):
    src, tgt = tmp_path / "text.src", tmp_path / "text.tgt"
    count = case.size(QUICK, FULL)
    expected = write(src, tgt, count)
    bad = sum(expected.values())
    assert expected.keys() == BAD.keys() and 0.04 < bad / count < 0.06
    source = TextSource(str(src), str(tgt))

    resident, seen = [], 0
    for seen, _ in enumerate(source.scan(), 1):
        if seen % (count // 20) == 0:
            resident.append(resident_mb())
    assert seen == count
    warm, most = resident[1], max(resident)
    assert most <= 1.2 * warm, resident

    found = survey(source, tokenizers=None)
    assert {**found.faults, **found.blank} == expected
    assert found.pairs == count - bad and found.unreadable is None
    allowed = 1.25 * BYTES_A_PAIR * count / 2**20
    assert resident_mb() <= 1.2 * most + allowed
    case.survived(
        bad,
        injected=f"bad bytes, NUL and blank sides in {count:,} pairs of lines",
        lost=f"none uncounted; {warm:.0f} MB resident after a tenth, {most:.0f} MB at most",
    )


def write(src: Path, tgt: Path, count: int) -> Counter[str]:
    """So many lines each, and how many of each kind are bad."""
    rng, expected = random.Random(1), Counter[str]()
    with src.open("wb") as one, tgt.open("wb") as other:
        for left, right in lines(rng, count, expected):
            one.write(left + b"\n")
            other.write(right + b"\n")
    return expected


def lines(rng: random.Random, count: int, expected: Counter[str]) -> Iterator[tuple[bytes, bytes]]:
    for _ in range(count):
        if rng.random() < 0.05:
            kind = rng.choice([*BAD])
            expected[kind] += 1
            yield rng.choice(BAD[kind])
        else:
            yield rng.choice(GOOD)


def resident_mb() -> float:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
