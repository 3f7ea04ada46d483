"""Make commands and what they mean, the smallest test of composition: `python scripts/make_scan.py --out scan`.

The language is that of SCAN (Lake and Baroni 2018, "Generalization without systematicity"), with shorter names: `walk
around left twice and jump` means LEFT WALK four times, that twice, then JUMP. All of its 20,910 commands are written,
as TSV files, and divided in two ways:

    random/        a fifth for the test, any of them
    composition/   all that hold `around right` for the test: `around left`, `opposite right` and all else are learnt

In both, a part of what is learnt from is held out for validation. The same bytes each time.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

ACTIONS, DIRECTIONS, TIMES = ("walk", "look", "run", "jump"), ("left", "right"), {"": 1, "twice": 2, "thrice": 3}
HELD_OUT = "around right"
VALIDATION = 1000  # pairs
Pair = tuple[str, list[str]]  # a command, and what is done


def verbs() -> Iterator[Pair]:
    """One action, or a turn, and where it leads."""
    for action in (*ACTIONS, "turn"):
        does = [] if action == "turn" else [action.upper()]
        if does:
            yield action, does
        for direction in DIRECTIONS:
            turn = [direction.upper()]
            yield f"{action} {direction}", [*turn, *does]
            yield f"{action} opposite {direction}", [*turn, *turn, *does]
            yield f"{action} around {direction}", [*turn, *does] * 4


def sentences() -> Iterator[Pair]:
    """Verbs done so many times."""
    for verb, does in verbs():
        for word, times in TIMES.items():
            yield f"{verb} {word}".strip(), does * times


def commands() -> Iterator[Pair]:
    """Sentences, and two of them in order or the other way about."""
    yield from sentences()
    for first, does in sentences():
        for second, then in sentences():
            yield f"{first} and {second}", [*does, *then]
            yield f"{first} after {second}", [*then, *does]


def shuffled(pairs: list[Pair], *, by: str) -> list[Pair]:
    """In an order that is a function of the commands."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{by} {pair[0]}".encode()).digest())


def split(pairs: list[Pair], is_test: Callable[[Pair], bool]) -> dict[str, list[Pair]]:
    """What is learnt, what is held out of it for validation, and the test."""
    test, rest = [pair for pair in pairs if is_test(pair)], [pair for pair in pairs if not is_test(pair)]
    return {"train": rest[VALIDATION:], "val": rest[:VALIDATION], "test": test}


def main() -> None:
    """Write the files of both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scan"), help="folder to write (scan)")
    write(parser.parse_args().out)


def write(folder: Path) -> None:
    """All of it."""
    pairs = shuffled(list(commands()), by="order")
    drawn = {command for command, _ in shuffled(pairs, by="test")[: len(pairs) // 5]}
    parts = {
        "random": split(pairs, lambda pair: pair[0] in drawn),
        "composition": split(pairs, lambda pair: HELD_OUT in pair[0]),
    }
    for name, texts in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for text, found in texts.items():
            lines = "".join(f"{command}\t{' '.join(does)}\n" for command, does in found)
            (folder / name / f"{text}.tsv").write_text(lines)


if __name__ == "__main__":
    main()
