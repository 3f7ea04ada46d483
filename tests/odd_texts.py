"""Texts with line ends of all kinds, and texts whose lengths go together as those of translations do."""

import random

PIECES = [
    "a",
    "bc ",
    "\u2028",
    "\u2029",
    "\u0085",
    "\x0b",
    "\x0c",
    "\x1c",
    "\r",
    "é",
    "字",
    "\ufeff",
    "\n",
    "\r\n",
    "\n\n",
]


def lines_of(data: bytes) -> list[bytes]:
    """What reading must give, by its definition."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    return [line.removesuffix(b"\r") for line in lines]


def translations(count, seed=0):
    """Pairs whose lengths go together about as loosely as in real translations (correlation near 0.9)."""
    rng = random.Random(seed)
    lengths = [rng.randrange(10, 160) for _ in range(count)]
    return [("s" * n, "t" * max(1, round(n * rng.gauss(1.15, 0.2)))) for n in lengths]
