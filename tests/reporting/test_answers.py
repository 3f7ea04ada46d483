"""What is read of the translations of a run, and which of them are worst."""

import pytest

from pytorch_dl.reporting.answers import Answer, Answers, read_answers


def test_the_worst_are_wrong_and_furthest_first():
    lines = [
        Answer("s", "the cat sat", "the cat sat"),
        Answer("s", "the cat sat", "the cat sits"),
        Answer("s", "the cat sat", "xyz"),
    ]
    answers = Answers(lines)
    assert [answer for _, answer in answers.worst(5)] == [lines[2], lines[1]]
    assert answers.worst(1)[0][0] == 0.0 and answers.chrf[0] == 100.0


def test_one_line_scores_as_a_text_of_its_own():
    from sacrebleu import sentence_chrf

    lines = [
        Answer("s", "the cat sat on the mat", "a cat sits on a mat"),
        Answer("s", "ab", "abc"),
        Answer("s", "a", ""),
    ]
    wanted = [sentence_chrf(line.translation, [line.reference]).score for line in lines]
    assert Answers(lines).chrf == pytest.approx(wanted)


def test_are_read_whatever_they_hold(tmp_path):
    path = tmp_path / "x.compared.tsv"
    assert read_answers(path) is None
    path.write_text("answer\tsource\treference\ttranslation\nwrong\ta\x85b\tc\t\nright\tonly three\tcells\n")
    assert read_answers(path).lines == [Answer("a\x85b", "c", "")]
    path.write_text("answer\tsource\treference\ttranslation\n")
    assert read_answers(path) is None


def test_of_the_same_text_in_another_order():
    first = Answers([Answer("a", "b", "c"), Answer("d", "e", "f")])
    assert first.is_of_the_same_text(Answers([Answer("d", "e", "x"), Answer("a", "b", "y")]))
    assert not first.is_of_the_same_text(Answers([Answer("d", "e", "x")]))
