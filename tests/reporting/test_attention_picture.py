"""Maps in pixels: the largest weight is the darkest cell, in its row and column; what cannot be shown is left out."""

from pathlib import Path

import pytest
import torch
from tiny_runs import pairs

from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.attention_map import AttentionMap
from pytorch_dl.reporting.attention_picture import FULL_COLOUR, attention_picture, attention_pictures
from pytorch_dl.reporting.attention_section import MOST_TOKENS
from pytorch_dl.reporting.heat_map import CELL
from pytorch_dl.translator import Translator, load


def cells(attention: AttentionMap) -> list[list[tuple[int, ...]]]:
    """The colour in the middle of each cell; they end at the picture's right and lower margin."""
    picture = attention_picture(attention)
    rows, columns = len(attention.target), len(attention.source)
    left, top = picture.width - 6 - CELL * columns, picture.height - 6 - CELL * rows
    middle = CELL // 2 - 1
    return [
        [picture.getpixel((left + CELL * column + middle, top + CELL * row + middle)) for column in range(columns)]
        for row in range(rows)
    ]


def test_cells_are_as_dark_as_their_weights() -> None:
    found = cells(AttentionMap(["a", "größe", "c"], ["x", "y"], [[0.5, 0.25, 0.0], [0.0, 0.25, 0.5]]))
    half = tuple(round(255 - (255 - full) / 2) for full in FULL_COLOUR)
    assert found == [[FULL_COLOUR, half, (255, 255, 255)], [(255, 255, 255), half, FULL_COLOUR]]


def test_pieces_are_named_beside_and_above() -> None:
    weights = [[0.0, 0.0], [0.0, 1.0]]
    named, blank = (
        attention_picture(AttentionMap(["ab", "cd"], ["ef", "gh"], weights)),
        attention_picture(AttentionMap(["ab", "  "], ["ef", "  "], weights)),
    )
    left, top = named.width - 6 - 2 * CELL, named.height - 6 - 2 * CELL
    dark = {
        "above": named.crop((left + CELL, 0, left + 2 * CELL, top)),
        "beside": named.crop((0, top + CELL, left, top + 2 * CELL)),
    }
    assert all(part.getextrema()[0][0] < 100 for part in dark.values())
    assert named.tobytes() != blank.tobytes()


def test_long_pieces_are_cut_and_all_weights_zero_is_white() -> None:
    picture = attention_picture(AttentionMap(["a" * 300], ["b" * 300], [[0.0]]))
    assert picture.width < 200 and picture.height < 200
    assert cells(AttentionMap(["a"], ["b"], [[0.0]])) == [[(255, 255, 255)]]


@pytest.mark.parametrize("there", [True, False])
def test_letters_without_matplotlib_are_pillows(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not there:
        monkeypatch.setattr("pytorch_dl.reporting.attention_picture.find_spec", lambda name: None)
    picture = attention_picture(AttentionMap(["a", "b"], ["c"], [[0.0, 0.0]]))
    assert picture.getextrema()[0][0] < 100


@pytest.fixture
def translator(tiny_run: Path) -> Translator:
    return load(tiny_run)


def test_the_maps_of_a_model_are_drawn_later(translator: Translator) -> None:
    sources = [src for src, _ in pairs(2)]
    first, second = attention_pictures(translator, sources, ["ab", "cd"])
    assert first and second
    (expected,) = translator.attention_maps(sources[:1], [[*translator.tokenizers.tgt.encode("ab"), 2]])
    assert first().tobytes() == attention_picture(expected).tobytes() != second().tobytes()


def test_what_is_too_long_or_blank_has_none(translator: Translator) -> None:
    long = "a" * MOST_TOKENS
    found = attention_pictures(translator, ["ab", long, "ab", " "], ["ab", "ab", long, "ab"])
    assert [draw is not None for draw in found] == [True, False, False, False]
    assert attention_pictures(translator, [long], ["ab"]) == [None]


def test_layers_that_do_not_tell_have_none(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("no MultiHeadAttention")

    monkeypatch.setattr(translator, "attention_maps", refuse)
    assert attention_pictures(translator, ["ab"], ["ab"]) == [None]


def test_compiled_layers_are_not_compiled_anew(translator: Translator) -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        compiled.append(graph)
        return graph.forward

    model = translator.model
    model._compiled = {
        layer: torch.compile(layer, backend=backend) for layer in (*model.encoder_layers, *model.decoder_layers)
    }
    (draw,) = attention_pictures(translator, ["ab"], ["ab"])
    assert draw and compiled == []
    model.forget_compiled()
