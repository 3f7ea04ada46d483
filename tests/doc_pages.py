"""README and docs as tests read them: the pages, their blocks, and the commands in these."""

import itertools
import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
BLOCK = re.compile(r"(?P<mark><!-- not run\b.*?-->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\((?P<to>[^)\s]+)\)")
SEPARATORS, REDIRECTIONS = set("|&;\n"), set("<>")


class Block(NamedTuple):
    """A fenced block of a page; `skipped` when the page says so above it."""

    place: str
    kind: str
    text: str
    skipped: bool
    printed: str | None = None
    """Of Python: the text block right behind it, which is what it prints."""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    made = []
    for this, then in itertools.zip_longest(found, found[1:]):
        shown = then is not None and (this["kind"], then["kind"]) == ("python", "text")
        shown = shown and not text[this.end() : then.start()].strip()
        place = f"{page.name}:{text[: this.start('kind')].count(chr(10)) + 1}"
        made.append(Block(place, this["kind"], this["text"], bool(this["mark"]), then["text"] if shown else None))
    return made


def running_text(page: Path) -> str:
    """What a page says outside of its blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    """The pytorch-dl commands of a shell block, in words; also those that torchrun starts."""
    text = re.sub(r"(^|\s)#.*$", r"\1", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    found = []
    for ends, words in itertools.groupby(lexer, key=lambda word: set(word) <= SEPARATORS):
        if not ends:
            kept = list(itertools.takewhile(lambda word: not set(word) <= REDIRECTIONS, words))
            for name in (["pytorch-dl"], ["-m", "pytorch_dl"]):
                begins = [place for place in range(len(kept)) if kept[place : place + len(name)] == name]
                found += [kept[begins[0] + len(name) :]] if begins else []
    return found
