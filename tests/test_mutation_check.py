"""A mutant counts as caught where its test says what was lost; and every mutant still fits the source."""

from pathlib import Path

import pytest

from scripts import mutation_check
from scripts.mutation_check import MUTANTS, Mutant, changed_text, judged

ROOT = Path(__file__).resolve().parent.parent
TEST = """
import kept

def test_kept():
    assert kept.number() == 2, "3 were lost"
"""


@pytest.mark.parametrize("name", MUTANTS)
def test_it_fits_the_source(name: str) -> None:
    mutant = MUTANTS[name]
    text = (ROOT / mutant.file).read_text()
    assert changed_text(mutant, text) != text
    test, *parts = mutant.test.split("::")
    assert all(f" {part}(" in (ROOT / test).read_text() or f" {part}:" in (ROOT / test).read_text() for part in parts)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file and one test."""
    (tmp_path / "kept.py").write_text("def number():\n    return 2\n")
    (tmp_path / "test_kept.py").write_text(TEST)
    monkeypatch.setattr(mutation_check, "ROOT", tmp_path)
    monkeypatch.setattr(mutation_check, "PARTS", ("kept.py", "test_kept.py"))
    mutation_check.passes.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "caught", "reason"),
    [
        ({"2": "3"}, True, "AssertionError: 3 were lost"),
        ({"return 2": "return"}, True, "AssertionError: 3 were lost"),
        ({"2": "two"}, False, "NameError: name 'two' is not defined"),
        ({"def": "deff"}, False, None),
        ({"2": "1 + 1"}, False, "it passes"),
    ],
)
def test_only_what_is_lost_counts(changes: dict[str, str], caught: bool, reason: str | None, project: Path) -> None:
    mutant = Mutant("another number", "kept.py", changes, "test_kept.py", "3 were lost")
    if reason is None:
        with pytest.raises(SystemExit, match="SyntaxError"):  # none of its cases ran
            judged(mutant)
        return
    found = judged(mutant)
    assert (found["caught"], str(found["reason"]).partition("\n")[0]) == (caught, reason)


def test_a_test_that_fails_anyway_notices_nothing(project: Path) -> None:
    (project / "kept.py").write_text("def number():\n    return 3\n")
    assert not judged(Mutant("another number", "kept.py", {"3": "4"}, "test_kept.py", "3 were lost"))["caught"]


def test_a_text_that_is_not_there_once_ends_it(project: Path) -> None:
    for old in ("number = 7", "r"):
        with pytest.raises(SystemExit, match=f"times, not once: {old!r}"):
            judged(Mutant("nothing", "kept.py", {old: ""}, "test_kept.py", ""))
