"""docs/reliability.md shows what the result files tell, and that of mutants is of those that there are."""

import json
import re

import pytest

from scripts import reliability_table
from scripts.mutation_check import MUTANTS
from scripts.reliability_table import PAGE, RESULTS, filled

TRIED = {"injected": "a fault", "times": 1200, "lost": "nothing", "commit": "0123456789"}
FUZZED = {"seconds": 180, "executions": 5000, "memory_mb": 300, "findings": [], "commit": "0123456789"}


def test_the_page_is_that_of_the_result_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text) == text, "run python scripts/reliability_table.py"


@pytest.mark.parametrize("table", ["cases", "mutants", "fuzzing"])
def test_a_line_that_is_stale_shows(table: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin = f"<!-- begin of {table} -->\n"
    head = text[text.index(begin) + len(begin) :].splitlines()[:3]
    for line in head:
        assert text.count(line) == 1
        assert filled(text.replace(line, line.replace(" |", " of old |"))) == text


@pytest.mark.parametrize(("changed", "commit"), [(False, "0123456"), (True, "0123456 with changes")])
def test_what_was_not_all_committed_is_marked(changed: bool, commit: str) -> None:
    (row,) = reliability_table.cases({"D10": {**TRIED, "uncommitted_changes": changed}})[2:]
    assert row == f"| D10 | a fault | 1,200 | nothing | {commit} |"
    (row,) = reliability_table.fuzzing({"text": {**FUZZED, "uncommitted_changes": changed}})[2:]
    assert row == f"| text | 3 | 5,000 | 300 | 0 | {commit} |"


def test_the_result_is_of_the_mutants_that_there_are() -> None:
    found = json.loads((RESULTS / "mutants.json").read_bytes())["mutants"]
    assert found.keys() == MUTANTS.keys()
    for name, mutant in MUTANTS.items():
        one = found[name]
        assert (one["what"], one["file"], one["caught"]) == (mutant.what, mutant.file, True), name
        assert any(one["by"].startswith(test) for test in mutant.test.split()), name
        assert re.search(mutant.says, one["reason"]), f"{name}: run python scripts/mutation_check.py {name}"
