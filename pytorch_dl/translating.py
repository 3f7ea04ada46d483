"""The command `translate`: lines in, lines out, in order, with bounded memory however long the text is."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pytorch_dl.dataset.compression import check_file
from pytorch_dl.dataset.text_lines import decode, one_line, read_lines
from pytorch_dl.errors import ConfigError, DataError, Interrupted
from pytorch_dl.generation.attention_map import AttentionMap
from pytorch_dl.generation.constraints import Constraints
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.resumable import ResumableFile
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translator import Translation, Translator, load

CHUNK = 2048  # lines that are translated together
KEYS = {"text": str, "prefix": str, "ban": list, "require": list}  # of a line of JSON


class Line(NamedTuple):
    """One line to translate."""

    text: str
    constraints: Constraints


@dataclasses.dataclass(frozen=True)
class Form:
    """How translations are printed."""

    as_json: bool = False
    with_scores: bool = False
    with_alignment: bool = False


def translate_lines(
    run: Path,
    file: Path | None,
    texts: Sequence[str] | None,
    settings: SearchSettings,
    constraints: Constraints,
    form: Form,
    *,
    jsonl: bool,
    out: Path | None,
    resume: bool,
    device: str,
    precision: str,
) -> None:
    """Translate the given texts, the lines of a file, or those of stdin, to stdout or to a file."""
    if file and texts:
        raise ConfigError(f"--text and the file {file} exclude each other", fix="give one of them")
    if texts and jsonl:
        raise ConfigError(
            "--jsonl is for files and stdin, and --text gives a line as it is", fix="leave out one of them"
        )
    if resume and not out:
        raise ConfigError("--resume needs --out FILE: it goes on behind what stands there", fix="give --out")
    if file and not os.path.exists(file):  # a name that is too long is none
        raise DataError("no such file", where=str(file), fix="correct the path; a line to translate goes with --text")
    lines = read(texts, file, constraints, jsonl=jsonl)  # before the model is loaded: a file that is none shows at once
    if out:
        job = {
            "settings": dataclasses.asdict(settings),
            "constraints": dataclasses.asdict(constraints),
            "form": dataclasses.asdict(form),
            "source": str(file) if file else list(texts or []),
            "jsonl": jsonl,
            "model": RunFolder(run).weights_fingerprint(),
            "precision": precision,
        }
        with ResumableFile(out, job, resume=resume) as written:
            hashed = _Hashed(lines)
            with _resumable(out):
                _skip(hashed, written, where=str(file or "stdin"))
                if written.complete:
                    say(f"{out} is complete: nothing to do")
                    return
                translator = load(run, device=device, precision=precision)
                _translate(translator, hashed, settings, form, hashed.told_to(written.append), first=written.lines)
        return
    translator = load(run, device=device, precision=precision)
    if not texts and file is None and not jsonl and sys.stdin.isatty():
        converse(translator, settings, constraints, form)
    else:
        _translate(translator, lines, settings, form, print_lines)


def converse(
    translator: Translator,
    settings: SearchSettings,
    constraints: Constraints = Constraints(),  # noqa: B008 - it is frozen
    form: Form = Form(),
) -> None:
    """Translate what is typed, until an empty line or the end of input."""
    say("Type a line to translate; an empty line ends.")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        typed = iter(lambda: input("> " if sys.stdout.isatty() else ""), "")
        _translate(translator, (Line(text, constraints) for text in typed), settings, form, print_lines, chunk=1)


def read(texts: Sequence[str] | None, file: Path | None, constraints: Constraints, *, jsonl: bool) -> Iterator[Line]:
    """The lines to translate, one after another; faults are told with file and line."""
    if texts:
        return (Line(text, constraints) for text in texts)
    path = file or Path("stdin")
    if file:
        check_file(file)
    raws = read_lines(file) if file else (raw.removesuffix(b"\n").removesuffix(b"\r") for raw in sys.stdin.buffer)
    lines = ((decode(raw, path=path, line=number), number) for number, raw in enumerate(raws, 1))
    if not jsonl:
        return (Line(text, constraints) for text, _ in lines)
    return (_parsed(text, constraints, where=f"{path}:{number}") for text, number in lines)


def _parsed(text: str, constraints: Constraints, *, where: str) -> Line:
    """A line of JSON: {"text": ..., "prefix": ..., "ban": [...], "require": [...]}, all but the text optional."""
    fix = 'write each line as {"text": "...", "prefix": "...", "ban": ["..."], "require": ["..."]}'
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=where, fix=fix) from None
    if not isinstance(values, dict) or "text" not in values:
        raise DataError("expected a JSON object with the key text", where=where, fix=fix)
    for key, value in values.items():
        if key not in KEYS:
            raise DataError(f"unknown key {key!r}, expected one of {', '.join(KEYS)}", where=where, fix=fix)
        words = value if isinstance(value, list) else [value]
        if not isinstance(value, KEYS[key]) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{key} is {value!r}, expected {_kind(key)}", where=where, fix=fix)
        if any("\ud800" <= character <= "\udfff" for word in words for character in word):
            raise DataError(f"{key} is {value!r}, which holds half a character", where=where, fix="write it whole")
    try:
        given = Constraints(
            values.get("prefix", constraints.prefix),
            (*constraints.banned, *values.get("ban", [])),
            (*constraints.required, *values.get("require", [])),
        )
    except ConfigError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None
    return Line(values["text"], given)


def _kind(key: str) -> str:
    return "a text" if KEYS[key] is str else "a list of texts"


class _Hashed:
    """Lines, and a hash of those that were taken."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines, self._hash = lines, hashlib.sha256()

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        line = next(self._lines)
        self._hash.update(repr(line).encode())
        return line

    def so_far(self) -> str:
        """The hash."""
        return self._hash.hexdigest()

    def told_to(self, append: Callable[..., None]) -> "Write":
        """What a file appends, with the hash of all lines taken until then."""
        return lambda printed, count: append(printed, count, source=self.so_far())


def _skip(lines: _Hashed, written: ResumableFile, *, where: str) -> None:
    """Pass over what is translated; raises where the source is another than it was then."""
    skipped = sum(1 for _ in itertools.islice(lines, written.lines))
    if skipped < written.lines:
        wrong = f"the source has {skipped:,} lines, but {written.lines:,} are translated in {written.path}"
    elif skipped and lines.so_far() != written.source:
        wrong = f"the first {skipped:,} lines are other ones than those that are translated in {written.path}"
    elif written.complete and next(lines, None):
        wrong = f"the source has more than the {skipped:,} lines that are translated in {written.path}"
    else:
        return
    raise DataError(wrong, where=where, fix="give the same source again, or choose another --out")


@contextlib.contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Tell who interrupts a translation that it can go on."""
    try:
        yield
    except KeyboardInterrupt:
        fix = "give the same command again, with --resume"
        raise Interrupted("interrupted", where=str(out), fix=fix) from None


Write = Callable[[Sequence[str], int], None]  # (printed lines, how many source lines they are of)


def print_lines(printed: Sequence[str], count: int) -> None:
    """Write lines to stdout."""
    for line in printed:
        print(line)
    sys.stdout.flush()


def _translate(
    translator: Translator,
    lines: Iterable[Line],
    settings: SearchSettings,
    form: Form,
    write: Write,
    *,
    chunk: int | None = None,
    first: int = 0,
) -> None:
    """Write what each line becomes, in order, some at a time; `first` lines have been written before."""
    chunk = chunk or CHUNK
    left, warned, done, started = iter(lines), False, first, time.monotonic()
    while some := list(itertools.islice(left, chunk)):
        if not warned and (warned := any("\t" in line.text for line in some)):
            say("warning: there are tabs: a whole line is one source (cut -f1 FILE gives the first column alone)")
        found = translator.hypotheses(
            [line.text for line in some],
            settings,
            constraints=[line.constraints for line in some],
            first_number=done,
        )
        maps = _maps(translator, some, found) if form.with_alignment else [()] * len(some)
        printed = [
            text
            for number, (line, best, looked) in enumerate(zip(some, found, maps, strict=True), done + 1)
            for text in _format(translator, line.text, number, best, looked, form)
        ]
        write(printed, len(some))
        done += len(some)
        if sys.stderr.isatty() and done - first > chunk:
            rate = (done - first) / (time.monotonic() - started)
            print(f"\r{done:,} lines, {rate:,.0f} a second", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty() and done - first > chunk:
        say("")


def _maps(
    translator: Translator, lines: Sequence[Line], found: Sequence[Sequence[Translation]]
) -> list[Sequence[AttentionMap]]:
    """The attention map of each translation of each line."""
    pairs = [(line.text, translation) for line, best in zip(lines, found, strict=True) for translation in best]
    maps = iter(translator.attention_maps([text for text, _ in pairs], [translation for _, translation in pairs]))
    return [list(itertools.islice(maps, len(best))) for best in found]


def _format(
    translator: Translator,
    source: str,
    number: int,
    best: Sequence[Translation],
    maps: Sequence[AttentionMap],
    form: Form,
) -> Iterator[str]:
    if best[0].source_cut and not form.as_json:
        say(f"warning: line {number} is longer than the model reads: only its beginning is translated")
    if form.as_json:
        rows = [dataclasses.asdict(translation) for translation in best]
        for row in rows:  # -inf where all was banned, which JSON does not know
            row |= {key: value if math.isfinite(value := row[key]) else None for key in ("score", "log_prob")}
        for row, looked in zip(rows, maps, strict=False):
            row["alignment"] = looked.strongest()
        sources = {"source_tokens": maps[0].source} if maps else {}
        yield json.dumps(
            {"line": number, "source": source, **sources, "translations": rows}, ensure_ascii=False, allow_nan=False
        )
        return
    links = [
        " ".join(f"{there}-{here}" for there, here in translator.word_alignment(source, translation, looked))
        for translation, looked in zip(best, maps, strict=False)
    ]
    ends = [f"\t{pairs}" for pairs in links] or [""] * len(best)
    if form.with_scores:
        for translation, end in zip(best, ends, strict=True):
            yield f"{number}\t{translation.score:.4f}\t{one_line(translation.text)}{end}"
    else:
        yield one_line(best[0].text) + ends[0]


def say(line: str) -> None:
    """Tell it beside the output."""
    print(line, file=sys.stderr)
