"""HTML as values: what is text is escaped, what is markup was made here.

Texts come from strangers. The only way to markup is `tag`, which escapes all that is not `Html` already.
"""

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # what HTML or UTF-8 has no place for
_VOID = {"meta", "link", "br"}
_DRAWN = {"rect", "line", "circle", "path"}
Attributes = Mapping[str, object]


class Html(str):
    """Markup."""


Content = str | int | float | Iterable[str] | None  # a string that is not Html is text


def escaped(text: object) -> str:
    """A text as it stands between tags and in attributes; control characters become the sign for unreadable ones."""
    return html.escape(_NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def tag(name: str, attributes: Attributes, *content: Content) -> Html:
    """An element; attributes that are None are left out, and those that are True have no value."""
    given = "".join(
        f" {key}" if value is True else f' {key}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{given}>")
    inside = joined(*content)
    return Html(f"<{name}{given}/>" if name in _DRAWN and not inside else f"<{name}{given}>{inside}</{name}>")


def joined(*content: Content) -> Html:
    """All of it, one behind the other."""
    pieces = chain.from_iterable([one] if isinstance(one, str | int | float) else one or () for one in content)
    return Html("".join(piece if isinstance(piece, Html) else escaped(piece) for piece in pieces))


def text(words: str, *, most: int = 600) -> Html:
    """A text of any language and direction, its end left out, and said, where it is very long."""
    left_out = len(words) - most
    more = tag("span", {"class": "soft"}, f" … and {left_out:,} more characters") if left_out > 0 else None
    return tag("bdi", {"dir": "auto"}, words[:most], more)


def table(header: Iterable[Content], rows: Iterable[Iterable[Content]], *, numbers: Iterable[int] = ()) -> Html:
    """A table that scrolls by itself where it is too wide; the columns `numbers` are set flush right."""
    right = set(numbers)

    def row(name: str, cells: Iterable[Content]) -> Html:
        made = (
            tag(
                name if place or name == "th" else "th",
                {
                    "class": "number" if place in right else None,
                    "scope": None if name == "td" and place else _scope(name),
                },
                cell,
            )
            for place, cell in enumerate(cells)
        )
        return tag("tr", {}, made)

    head, body = tag("thead", {}, row("th", header)), tag("tbody", {}, (row("td", cells) for cells in rows))
    return tag("div", {"class": "scroll", "tabindex": "0"}, tag("table", {}, head, body))


def note(*content: Content) -> Html:
    """A line that explains, or tells what is missing."""
    return tag("p", {"class": "note"}, *content)


@dataclass(frozen=True)
class Part:
    """A part of the page, which its list of contents leads to."""

    name: str
    title: str
    content: Html

    @property
    def html(self) -> Html:
        """Its section."""
        heading = tag("h2", {"id": f"{self.name}-title"}, self.title)
        return tag("section", {"id": self.name, "aria-labelledby": f"{self.name}-title"}, heading, self.content)


def part(name: str, title: str, *content: Content) -> Part:
    """A part of all of the content."""
    return Part(name, title, joined(*content))


def _scope(name: str) -> str:
    return "col" if name == "th" else "row"
