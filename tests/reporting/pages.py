"""Pages read as a browser reads them, and run folders made by hand."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from pytorch_dl.reporting.page import page, read_runs

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>&lt;\"'"


class Reader(HTMLParser):
    """All elements with their attributes, and the text that a person sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, str] = {}
        self.text = ""
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.raw[self._inside] = self.raw.get(self._inside, "") + data
        else:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """The attributes of each element of a name that has these."""
        return [has for name, has in self.elements if name == tag and attributes.items() <= has.items()]


def read(*folders: Path, **options: Any) -> Reader:
    """The page of some runs."""
    return Reader(page(read_runs(folders), **{"with_attention": False, **options}))


def copied(run: Path, place: Path) -> Path:
    """A run's folder once more, to change."""
    shutil.copytree(run, place)
    return place


def write_records(path: Path, rows: list[dict[str, Any]], *, torn: str = "") -> None:
    """JSON lines, and the beginning of one more."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)


def series(found: Reader) -> list[tuple[list[float], list[str]]]:
    """Steps and values of each curve, in the order of the page."""
    return [
        ([float(step) for step in has["data-steps"].split()], has["data-values"].split())
        for name, has in found.elements
        if name == "g" and has.get("data-steps")
    ]
