"""What the commands print: translations, scores and checks, line by line."""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from pytorch_dl.config import Config
from pytorch_dl.dataset.compression import check_file
from pytorch_dl.dataset.efficient_dataloader import read_pairs, source
from pytorch_dl.dataset.text_lines import decode, read_lines
from pytorch_dl.errors import ConfigError, DataError
from pytorch_dl.evaluation.report import score_lines
from pytorch_dl.files import write_file
from pytorch_dl.generation.generate import SearchSettings
from pytorch_dl.run import as_lines, check_texts, evaluate, one_line, refuse_errors
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translator import Translation, Translator, load

CHUNK = 1000  # lines that are translated together


def print_check(config: Config, *, as_json: bool) -> None:
    """Print the check's report; errors in the text end with the exit code of faulty data."""
    report, _ = check_texts(config, _say)
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else "\n".join(report.lines()))
    refuse_errors(report)


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
    if file and texts:
        raise ConfigError(f"--text and the file {file} exclude each other", fix="give one of them")
    settings = SearchSettings(beam_size=max(beam, nbest), n_best=nbest, length_penalty=length_penalty)
    if file and not os.path.exists(file):  # a name that is too long is none
        raise DataError("no such file", where=str(file), fix="correct the path; a line to translate goes with --text")
    lines = texts or _lines(file)  # before the model is loaded: a file that is none shows at once
    translator = load(run, device=device)
    if not texts and file is None and sys.stdin.isatty():
        converse(translator, settings, as_json=as_json)
    else:
        print_translations(translator, lines, settings, chunk=CHUNK, as_json=as_json)


def converse(translator: Translator, settings: SearchSettings, *, as_json: bool = False) -> None:
    """Translate what is typed, until an empty line or the end of input."""
    print("Type a line to translate; an empty line ends.", file=sys.stderr)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        typed = iter(lambda: input("> " if sys.stdout.isatty() else ""), "")
        print_translations(translator, typed, settings, chunk=1, as_json=as_json)


def print_translations(
    translator: Translator, lines: Iterable[str], settings: SearchSettings, *, chunk: int, as_json: bool
) -> None:
    """Print what each line becomes, in order, `chunk` lines at a time."""
    numbers, left = itertools.count(1), iter(lines)
    warned = False
    while sources := list(itertools.islice(left, chunk)):
        if not warned and (warned := any("\t" in text for text in sources)):
            _say("warning: there are tabs: a whole line is one source (cut -f1 FILE gives the first column alone)")
        for text, best in zip(sources, translator.hypotheses(sources, settings), strict=True):
            for line in _format(text, next(numbers), best, as_json=as_json, with_scores=settings.n_best > 1):
                print(line)
        sys.stdout.flush()


def print_scores(run: Path, src: str, ref: str | None, *, beam: int, length_penalty: float, save: Path | None) -> None:
    """Print all scores of a test text, and save its translations if asked to."""
    settings = SearchSettings(beam_size=beam, length_penalty=length_penalty)
    pairs = read_pairs([source(RunFolder(run).read_config().data, src, ref)], _say)
    translations, scores = evaluate(load(run), pairs, settings, say=_say)
    if save:
        write_file(save, as_lines(translations))
    print(f"{len(pairs):,} pairs, beam {beam}, length penalty {length_penalty:g}")
    print("\n".join(score_lines(scores)))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _format(
    source: str, number: int, best: Sequence[Translation], *, as_json: bool, with_scores: bool
) -> Iterator[str]:
    if as_json:
        yield json.dumps(
            {"line": number, "source": source, "translations": [asdict(t) for t in best]}, ensure_ascii=False
        )
        return
    if best[0].source_cut:
        print(
            f"warning: line {number} is longer than the model reads: only its beginning is translated", file=sys.stderr
        )
    if with_scores:
        yield from (f"{number}\t{translation.score:.4f}\t{one_line(translation.text)}" for translation in best)
    else:
        yield one_line(best[0].text)


def _lines(file: Path | None) -> Iterator[str]:
    path = file or Path("stdin")
    if file:
        check_file(file)
    raws = read_lines(file) if file else (raw.removesuffix(b"\n").removesuffix(b"\r") for raw in sys.stdin.buffer)
    return (decode(raw, path=path, line=number) for number, raw in enumerate(raws, 1))
