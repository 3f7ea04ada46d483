"""Where a model in training looked in the source while it translated, as pictures in pixels, which trackers show."""

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.attention_map import AttentionMap
from pytorch_dl.reporting.attention_section import MOST_TOKENS
from pytorch_dl.reporting.heat_map import CELL, short_piece
from pytorch_dl.training.progress import Draw
from pytorch_dl.translator import Translator

FULL_COLOUR = (31, 78, 140)  # of the largest weight
GAP, LETTERS = 6, 12  # pixels


def attention_pictures(translator: Translator, sources: Sequence[str], texts: Sequence[str]) -> list[Draw | None]:
    """What draws the map of each source and its translation; None where it is too long to be read, or blank.

    Compiled layers run as they are written meanwhile: looking into them would compile them anew.
    """
    src, tgt = translator.tokenizers.src, translator.tokenizers.tgt
    most = min(MOST_TOKENS, translator.model.max_seq_len)
    targets = [[*ids, tgt.eos_id] for ids in tgt.encode_batch(texts)]
    lengths = [max(len(ids) + 1, len(target)) for ids, target in zip(src.encode_batch(sources), targets, strict=True)]
    shown = [n for n, length in enumerate(lengths) if length <= most and sources[n].strip()]
    try:
        with torch.compiler.set_stance("force_eager"):
            maps = translator.attention_maps([sources[n] for n in shown], [targets[n] for n in shown])
    except ConfigError:  # decoder layers of somebody's own, which do not tell
        maps, shown = [], []
    drawn: list[Draw | None] = [None] * len(sources)
    for number, attention in zip(shown, maps, strict=True):
        drawn[number] = partial(attention_picture, attention)
    return drawn


def attention_picture(attention: AttentionMap) -> Image.Image:
    """Rows are tokens that were written, columns those of the source; the largest weight has the full colour."""
    font = _font()
    source, target = ([short_piece(piece) for piece in pieces] for pieces in (attention.source, attention.target))
    left, top = (2 * GAP + max(round(font.getlength(piece)) for piece in pieces) for pieces in (target, source))
    picture = Image.new("RGB", (left + CELL * len(source) + GAP, top + CELL * len(target) + GAP), "white")
    upright = Image.new("RGB", (top, CELL * len(source)), "white")  # lies on its side for now
    for column, piece in enumerate(source):
        ImageDraw.Draw(upright).text((GAP, CELL * (column + 0.5)), piece, "black", font, anchor="lm")
    picture.paste(upright.transpose(Image.Transpose.ROTATE_90), (left, 0))
    pen = ImageDraw.Draw(picture)
    most = max(max(weights) for weights in attention.weights) or 1.0
    for row, (piece, weights) in enumerate(zip(target, attention.weights, strict=True)):
        pen.text((left - GAP, top + CELL * (row + 0.5)), piece, "black", font, anchor="rm")
        for column, weight in enumerate(weights):
            x, y = left + CELL * column, top + CELL * row
            pen.rectangle((x, y, x + CELL - 2, y + CELL - 2), _shade(weight / most))
    return picture


def _shade(share: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 - share * (255 - full)) for full in FULL_COLOUR)
    return red, green, blue


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu, which comes with matplotlib and has most alphabets; else Pillow's own, which has that of English."""
    found = find_spec("matplotlib")
    path = Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if found and found.origin else Path()
    return ImageFont.truetype(path, LETTERS) if path.is_file() else ImageFont.load_default(LETTERS)
