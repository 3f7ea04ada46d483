"""No other file of the package spells the name of a metric: a score that is looked for by it would not be found."""

import ast
from pathlib import Path

import pytorch_dl
from pytorch_dl.evaluation.report import text_scores
from pytorch_dl.scoring import names

PACKAGE = Path(pytorch_dl.__file__).parent
NAMES = {value for name, value in vars(names).items() if name.isupper()}


def test_scores_have_them():
    lines = ["one two three four five"]
    assert {score.name for score in text_scores(lines, lines)} == NAMES - {names.COMET}


def test_they_are_spelled_once():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in NAMES
    ]
    assert len(found) == len(NAMES) and all(line.startswith("scoring/names.py") for line in found), found
