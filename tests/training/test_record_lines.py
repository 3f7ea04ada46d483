"""What is read of a record, and what is said of the rest."""

import json

import pytest

from pytorch_dl.training.record_lines import numbers, read_lines

LINES = "".join(json.dumps({"step": step, "kind": "train", "nll": 9.0 - step}) + "\n" for step in (1, 2, 3))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("", []),
        ('{"step": 4, "ki', ["The last line of f is torn: the run was killed, or is writing it. It is left out."]),
        ('{"step": 4, "ki\n', ["f: 1 line is no record, and left out."]),
        ('[]\n{"step": "x"}\n{"step": null}\n\n', ["f: 4 lines are no record, and left out."]),
        ("\xff\x00\n" + "[" * 100_000, ["The last line of f is torn", "f: 1 line is no record"]),
    ],
)
def test_what_cannot_be_read_is_left_out_and_said(more, told, tmp_path):
    (tmp_path / "f").write_bytes(LINES.encode() + more.encode("latin-1"))
    found = read_lines(tmp_path / "f")
    assert [row["step"] for row in found.rows] == [1, 2, 3]
    assert len(found.problems) == len(told)
    assert all(problem.startswith(line) for problem, line in zip(found.problems, told, strict=True))


def test_a_last_line_without_its_end_counts_if_it_is_whole(tmp_path):
    (tmp_path / "f").write_text(LINES.rstrip("\n"))
    assert (len(read_lines(tmp_path / "f").rows), read_lines(tmp_path / "f").problems) == (3, [])


def test_of_a_step_that_was_done_again_the_last_line_counts(tmp_path):
    (tmp_path / "f").write_text(LINES + '{"step": 2, "nll": 0.5}\n')
    assert numbers(read_lines(tmp_path / "f", once=True).rows, "nll") == [(1, 8.0), (2, 0.5), (3, 6.0)]
    assert len(read_lines(tmp_path / "f").rows) == 4


def test_only_finite_numbers_are_drawn():
    values = [1, 2.5, True, None, "3", float("nan"), float("inf"), 10**400]
    rows = [{"step": step, "x": value} for step, value in enumerate(values)]
    assert numbers([*rows, {"step": 99}], "x") == [(0, 1.0), (1, 2.5)]


def test_a_missing_file_and_a_folder(tmp_path):
    assert read_lines(tmp_path / "f").problems == ["f is missing."]
    assert read_lines(tmp_path).problems == [f"{tmp_path.name} is not a plain file."]
