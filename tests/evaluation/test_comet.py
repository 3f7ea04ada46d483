"""COMET by another Python: one that is faked, and a real one in which the package is faked."""

import os
import stat
import sys
from pathlib import Path

import pytest

from pytorch_dl.errors import ConfigError
from pytorch_dl.evaluation.comet import comet, require_comet

LINES = (["ein Hund", "zwei Katzen"], ["a dog", "two dogs"], ["a dog", "two cats"])
PACKAGE = """
__version__ = "9.9"
def download_model(name):
    return "path of " + name
class Model:
    def predict(self, data, batch_size, gpus):
        return {"scores": [0.9 if line["mt"] == line["ref"] else 0.4 for line in data]}
def load_from_checkpoint(path):
    assert path == "path of some/model", path
    return Model()
"""


def fake(folder: Path, answer: str) -> str:
    """A program in the place of a Python that runs some lines instead; its last two arguments are the files."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nsource, target = sys.argv[-2:]\n{answer}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def write(scores: str) -> str:
    return f'open(target, "w").write(json.dumps({{"scores": {scores}, "version": "1"}}))'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named comet, where our own interpreter finds it."""
    (tmp_path / "comet.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("package")
def test_an_environment_that_has_it():
    require_comet(sys.executable)
    score = comet(*LINES, python=sys.executable, model="some/model")
    assert (score.name, score.signature) == ("COMET", "nrefs:1|model:some/model|version:9.9")
    assert score.value == pytest.approx(65.0) and not score.lower_is_better
    assert score.rows.tolist() == [[0.9, 1.0], [0.4, 1.0]]


def test_it_is_given_the_lines_and_not_our_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    look = f"""
import os
assert "PYTHONPATH" not in os.environ
open({str(tmp_path / "seen")!r}, "w").write(open(source).read())
"""
    comet(*LINES, python=fake(tmp_path, look + write("[0.5, 0.7]")), model="m")
    assert '{"src": "zwei Katzen", "mt": "two dogs", "ref": "two cats"}' in (tmp_path / "seen").read_text()
    assert os.environ["PYTHONPATH"] == "/ours"


def test_an_environment_without_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"^--comet .*: COMET is not installed there.* Fix: give the python of an environment .*unbabel-comet"
    with pytest.raises(ConfigError, match=message):
        require_comet(sys.executable)
    with pytest.raises(ConfigError, match=r"not installed there: No module named 'comet'"):
        comet(*LINES, python=sys.executable, model="m")


@pytest.mark.parametrize("call", [require_comet, lambda python: comet(*LINES, python=python, model="m")])
def test_a_python_that_is_none(call, tmp_path):
    with pytest.raises(ConfigError, match=r"--comet no/python: cannot run it: No such file or directory\. Fix: give"):
        call("no/python")
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ConfigError, match=r"text: cannot run it: Permission denied"):
        call(str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("print('a\\nlast words', file=sys.stderr); sys.exit(7)", "exit code 7: last words"),
        ("sys.exit(1)", r"exit code 1\. Fix"),
        ("pass", "it left no scores"),
        ('open(target, "w").write("[1")', "it left no scores"),
        ('open(target, "w").write("[1]")', "it left no scores"),
        (write('"high"'), "it left no list of scores"),
        (write("[0.5, float('nan')]"), "it left no list of scores"),
        (write("[0.5]"), "it left 1 scores for 2 lines"),
    ],
)
def test_one_that_fails(answer, why, tmp_path):
    with pytest.raises(ConfigError, match=rf"python: COMET failed: {why}.*leave --comet out to go without"):
        comet(*LINES, python=fake(tmp_path, answer), model="m")
