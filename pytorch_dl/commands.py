"""What the commands print: translations, scores and checks, line by line."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from pytorch_dl.config import Config
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.text_lines import decode, read_lines
from pytorch_dl.errors import DataError
from pytorch_dl.evaluation.report import score_lines
from pytorch_dl.files import write_file
from pytorch_dl.generation.generate import SearchSettings
from pytorch_dl.run import check_texts, evaluate
from pytorch_dl.translator import Translation, Translator, load

CHUNK = 1000  # lines that are translated together


def print_check(config: Config, *, as_json: bool) -> None:
    """Print the check's report; errors in the text end with the exit code of faulty data."""
    report = check_texts(config)
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else "\n".join(report.lines()))
    if report.errors:
        raise DataError(f"{len(report.errors)} errors, first: {report.errors[0]}", fix="mend the text")


def translate_lines(
    run: Path,
    file: Path | None,
    texts: Sequence[str] | None,
    *,
    beam: int,
    nbest: int,
    length_penalty: float,
    as_json: bool,
    device: str,
) -> None:
    """Print the translations of the given texts, of the lines of a file, or of stdin."""
    settings = SearchSettings(beam_size=max(beam, nbest), n_best=nbest, length_penalty=length_penalty)
    translator = load(run, device=device)
    if texts:
        lines: Iterable[str] = texts
    elif file is None and sys.stdin.isatty():
        converse(translator, settings)
        return
    else:
        lines = _lines(file)
    number = 0
    numbered = iter(lines)
    while chunk := list(itertools.islice(numbered, CHUNK)):
        for source, best in zip(chunk, translator.hypotheses(chunk, settings), strict=True):
            number += 1
            for line in _format(source, number, best, as_json=as_json, with_scores=nbest > 1):
                print(line)
        sys.stdout.flush()


def converse(translator: Translator, settings: SearchSettings) -> None:
    """Translate what is typed, until an empty line or the end of input."""
    print("Type a line to translate; an empty line ends.", file=sys.stderr)
    while True:
        try:
            line = input("> ")
        except EOFError:
            return
        if not line.strip():
            return
        print(translator.hypotheses([line], settings)[0][0].text)


def print_scores(run: Path, src: str, ref: str | None, *, beam: int, length_penalty: float, save: Path | None) -> None:
    """Print all scores of a test text, and save its translations if asked to."""
    pairs = list(TextSource(src, ref))
    settings = SearchSettings(beam_size=beam, length_penalty=length_penalty)
    translations, scores = evaluate(load(run), pairs, settings)
    if save:
        write_file(save, "".join(f"{_one_line(text)}\n" for text in translations))
    print(f"{len(pairs):,} pairs, beam {beam}, length penalty {length_penalty:g}")
    print("\n".join(score_lines(scores)))


def _format(
    source: str, number: int, best: Sequence[Translation], *, as_json: bool, with_scores: bool
) -> Iterator[str]:
    if as_json:
        yield json.dumps(
            {"line": number, "source": source, "translations": [asdict(t) for t in best]}, ensure_ascii=False
        )
    elif with_scores:
        yield from (f"{number}\t{translation.score:.4f}\t{_one_line(translation.text)}" for translation in best)
    else:
        if best[0].source_cut:
            print(
                f"warning: line {number} is longer than the model reads: only its beginning is translated",
                file=sys.stderr,
            )
        yield _one_line(best[0].text)


def _one_line(text: str) -> str:
    """N lines in, N lines out, whatever the model writes."""
    return text.replace("\n", " ").replace("\r", " ")


def _lines(file: Path | None) -> Iterator[str]:
    path = file or Path("stdin")
    raws = read_lines(file) if file else (raw.removesuffix(b"\n").removesuffix(b"\r") for raw in sys.stdin.buffer)
    return (decode(raw, path=path, line=number) for number, raw in enumerate(raws, 1))
