"""Text is escaped unless it was made by a tag."""

import pytest

from pytorch_dl.reporting.html import Html, escaped, joined, table, tag, text
from pytorch_dl.reporting.text_section import marked


def test_what_is_no_markup_is_escaped():
    assert tag("p", {}, "<b>", Html("<i>"), 3, None, ["&", tag("b", {}, "x")]) == "<p>&lt;b&gt;<i>3&amp;<b>x</b></p>"
    assert tag("p", {"title": '"><script>', "hidden": True, "lang": None, "id": 7}) == (
        '<p title="&quot;&gt;&lt;script&gt;" hidden id="7"></p>'
    )
    assert type(tag("p", {}) + "<script>") is str  # and so would be escaped again
    assert joined(tag("p", {}) + "<script>") == "&lt;p&gt;&lt;/p&gt;&lt;script&gt;"


def test_controls_and_halves_of_characters():
    assert escaped("a\x00\x1b\x7f\ud800\n\tb") == "a\ufffd\ufffd\ufffd\ufffd\n\tb"


def test_a_long_text_says_what_is_left_out():
    assert text("abcdef", most=4) == '<bdi dir="auto">abcd<span class="soft"> … and 2 more characters</span></bdi>'
    assert text("abcd", most=4) == '<bdi dir="auto">abcd</bdi>'


def test_a_table_names_its_rows_and_columns():
    assert table(["a", "b"], [["<", 2]], numbers=[1]) == (
        '<div class="scroll" tabindex="0"><table><thead><tr><th scope="col">a</th><th class="number" scope="col">b</th>'
        '</tr></thead><tbody><tr><th scope="row">&lt;</th><td class="number">2</td></tr></tbody></table></div>'
    )


@pytest.mark.parametrize(
    ("translation", "reference", "shown"),
    [
        ("the cat sat on a mat", "the cat sat on the mat", "the cat sat on <mark>a</mark> mat"),
        ("a b c", "a b c", "a b c"),
        ("2024-03-17", "2024-03-07", "2024-03-<mark>1</mark>7"),
        ("<b> x y z", "", "<mark>&lt;b&gt; x y z</mark>"),
        ("a b c d", "b d", "<mark>a </mark>b <mark>c </mark>d"),
        ("x y z", "a b c", "<mark>x y z</mark>"),
    ],
)
def test_what_the_reference_has_otherwise_is_marked(translation, reference, shown):
    assert marked(translation, reference) == f'<bdi dir="auto">{shown}</bdi>'
