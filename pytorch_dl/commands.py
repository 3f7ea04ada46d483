"""What the commands print: scores and checks, line by line."""

import json
import sys
from pathlib import Path

from pytorch_dl.config import Config
from pytorch_dl.dataset.efficient_dataloader import read_pairs, source
from pytorch_dl.evaluation.report import score_lines
from pytorch_dl.files import write_file
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.run import as_lines, check_texts, evaluate, refuse_errors
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translator import load


def print_check(config: Config, *, as_json: bool) -> None:
    """Print the check's report; errors in the text end with the exit code of faulty data."""
    report, _ = check_texts(config, _say)
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=2) if as_json else "\n".join(report.lines()))
    refuse_errors(report)


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
