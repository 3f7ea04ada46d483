"""Where a model looked in the source while it wrote each token, as SVG."""

from pytorch_dl.generation.attention_map import AttentionMap
from pytorch_dl.reporting.html import Html, tag

CELL, LETTER = 18, 7.3
LEAST = 0.02  # share of the attention that is drawn
MOST_LETTERS = 14


def heat_map(attention: AttentionMap, *, run: str) -> Html:
    """Rows are tokens that were written, columns those of the source; the largest weight has the full colour."""
    source, target = [[short_piece(piece) for piece in pieces] for pieces in (attention.source, attention.target)]
    left = 12 + LETTER * max(map(len, target))
    top = 12 + LETTER * max(map(len, source))
    width, height = left + CELL * len(source) + 4, top + CELL * len(target) + 4
    names = [
        tag("text", {"transform": f"translate({left + CELL * (column + 0.7):.1f} {top - 6:.1f}) rotate(-90)"}, piece)
        for column, piece in enumerate(source)
    ]
    names += [
        tag("text", {"x": f"{left - 6:.1f}", "y": f"{top + CELL * (row + 0.7):.1f}", "text-anchor": "end"}, piece)
        for row, piece in enumerate(target)
    ]
    wide, high = CELL * len(source), CELL * len(target)
    frame = tag("rect", {"class": "frame", "x": f"{left:.1f}", "y": f"{top:.1f}", "width": wide, "height": high})
    shape = {"viewBox": f"0 0 {width:.0f} {height:.0f}", "width": f"{width:.0f}", "class": "heat", "role": "img"}
    svg = tag("svg", {**shape, "aria-label": f"Attention of {run}"}, frame, _cells(attention, left, top), names)
    return tag("div", {"class": "scroll", "tabindex": "0"}, svg)


def _cells(attention: AttentionMap, left: float, top: float) -> list[Html]:
    most = max(max(weights) for weights in attention.weights) or 1.0
    return [
        tag(
            "rect",
            {
                "x": f"{left + CELL * column + 1:.1f}",
                "y": f"{top + CELL * row + 1:.1f}",
                "width": CELL - 2,
                "height": CELL - 2,
                "rx": 2,
                "opacity": f"{weight / most:.2f}",
            },
            tag("title", {}, f"{_seen(piece)} ← {_seen(attention.source[column])}: {weight:.0%}"),
        )
        for row, (piece, weights) in enumerate(zip(attention.target, attention.weights, strict=True))
        for column, weight in enumerate(weights)
        if weight >= LEAST
    ]


def _seen(piece: str) -> str:
    return piece.replace(" ", "▁")


def short_piece(piece: str) -> str:
    """A token as a map names it."""
    piece = _seen(piece)
    return piece if len(piece) <= MOST_LETTERS else f"{piece[: MOST_LETTERS - 1]}…"
