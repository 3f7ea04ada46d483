"""The evaluation of a run: at its end, and by the command `evaluate` on any text, beside other systems if asked to."""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytorch_dl.config import Config
from pytorch_dl.dataset.compression import check_file
from pytorch_dl.dataset.efficient_dataloader import read_pairs, source
from pytorch_dl.dataset.text_files import PairStream, TextPair
from pytorch_dl.dataset.text_lines import decode, one_line, read_lines
from pytorch_dl.errors import DataError, UserError
from pytorch_dl.evaluation.breakdown import frequencies
from pytorch_dl.evaluation.comet import comet, require_comet
from pytorch_dl.evaluation.metrics import bleu_metric, perplexity_score, ter_seconds
from pytorch_dl.evaluation.report import Evaluation, text_scores, write_report
from pytorch_dl.experiments.compare import Comparison, compare
from pytorch_dl.files import write_file
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.prepare import text_of
from pytorch_dl.scoring.names import BLEU
from pytorch_dl.scoring.score import Score
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.translator import Translator, load

Say = Callable[[str], None]
SAMPLES = 5
PATIENCE = 20.0  # seconds of TER that nobody is warned of
LIMIT = 60.0  # and what the end of a run gives it at most


@dataclass(frozen=True)
class Metrics:
    """What is scored beside what always is."""

    ter: bool = True
    bleu_tokenizer: str = "13a"
    comet_python: str | None = None
    comet_model: str = ""

    def require(self) -> None:
        """Raise where one of them cannot be had; this takes a moment, and spares a translation in vain."""
        bleu_metric(self.bleu_tokenizer)
        if self.comet_python:
            require_comet(self.comet_python)

    def of(self, pairs: Sequence[TextPair], translations: Sequence[str]) -> list[Score]:
        """The scores of one system's translations of the pairs."""
        references = [pair.tgt for pair in pairs]
        found = text_scores(translations, references, with_ter=self.ter, bleu_tokenizer=self.bleu_tokenizer)
        if self.comet_python:
            sources = [pair.src for pair in pairs]
            found.append(comet(sources, translations, references, python=self.comet_python, model=self.comet_model))
        return found


def print_evaluation(
    run: Path,
    src: str,
    ref: str | None,
    settings: SearchSettings,
    metrics: Metrics,
    *,
    compared: Sequence[Path],
    device: str,
    precision: str,
    save: Path | None,
    as_json: bool,
) -> None:
    """Print all scores of a test text, and those of other systems' translations of it."""
    metrics.require()
    folder = RunFolder(run)
    config = folder.read_config()
    pairs = read_pairs([source(config.data, src, ref)], _say)
    others = {str(path): read_translations(path, count=len(pairs)) for path in compared}
    translator = load(run, device=device, precision=precision)
    translations = translate(translator, pairs, settings)
    if save:
        write_file(save, as_lines(translations))
    _warn_of_ter(pairs, metrics, systems=1 + len(others))
    scores = metrics.of(pairs, translations)
    evaluation = evaluate(folder, config, translator, pairs, scores, say=_say)
    comparison = None
    if others:
        comparison = compare({str(run): scores} | {name: metrics.of(pairs, lines) for name, lines in others.items()})
    facts = {
        "run": str(run),
        "pairs": len(pairs),
        "beam_size": settings.beam_size,
        "length_penalty": settings.length_penalty,
    }
    print("\n".join(_json(facts, evaluation, comparison) if as_json else _lines(facts, evaluation, comparison)))


def evaluate_run(folder: RunFolder, *, beam_size: int, progress: Progress) -> Evaluation | None:
    """Score the finished run on its test text, or on its validation text without one, and write the report."""
    config = folder.read_config()
    name, texts = _evaluation_text(folder, config)
    pairs = read_pairs(texts, progress.say)
    if not pairs:
        progress.say("no test or validation text: nothing to evaluate")
        return None
    settings = SearchSettings(beam_size=beam_size)
    translator = load(folder.path, device=config.system.device)
    translations = translate(translator, pairs, settings)
    seconds = ter_seconds([pair.tgt for pair in pairs])
    if seconds > LIMIT:
        progress.say(f"TER is left out: of texts so long it may take {seconds:,.0f} s; `pytorch-dl evaluate` gives it")
    scores = Metrics(ter=seconds <= LIMIT).of(pairs, translations)
    evaluation = evaluate(folder, config, translator, pairs, scores, say=progress.say)
    facts = {
        "text": name,
        "sha256": texts[0].fingerprint(),
        "pairs": len(pairs),
        "beam_size": beam_size,
        "length_penalty": settings.length_penalty,
    }
    samples = [
        (pair.src, pair.tgt, text) for pair, text in itertools.islice(zip(pairs, translations, strict=True), SAMPLES)
    ]
    write_file(folder.path / f"{name}.translations.txt", as_lines(translations))
    write_file(folder.path / f"{name}.compared.tsv", _compared(pairs, translations))
    write_report(folder.path, evaluation, samples, facts=facts)
    progress.say(f"{name} text, {len(pairs):,} pairs, beam {beam_size}:")
    for line in evaluation.score_lines():
        progress.say(f"  {line}")
    return evaluation


def translate(translator: Translator, pairs: Sequence[TextPair], settings: SearchSettings) -> list[str]:
    """The best translation of each source."""
    return [best[0].text for best in translator.hypotheses([pair.src for pair in pairs], settings)]


def evaluate(
    folder: RunFolder,
    config: Config,
    translator: Translator,
    pairs: Sequence[TextPair],
    scores: Sequence[Score],
    *,
    say: Say,
) -> Evaluation:
    """Scores of translations and the perplexity, as a whole and broken down; `say` is told of oddities."""
    nll, num_tokens = translator.negative_log_likelihood(pairs)
    if left_out := num_tokens.count(0):
        limit = translator.model.max_seq_len
        say(
            f"warning: {left_out:,} of {len(pairs):,} pairs are longer than the model reads ({limit} tokens): "
            "translated from their beginning, and left out of the perplexity"
        )
    if not any(score.name == BLEU for score in scores):
        say("BLEU is left out: it counts runs of four words, and no reference is so long")
    sources = [pair.src for pair in pairs]
    counts, counted_in = _frequencies(folder, config, sources, say)
    scores = [*scores, perplexity_score(nll, num_tokens)]
    return Evaluation.of(sources, scores, counts=counts, counted_in=counted_in)


def read_translations(path: Path, *, count: int) -> list[str]:
    """Another system's translations of `count` sources, one a line."""
    check_file(path)
    found = [decode(raw, path=path, line=number) for number, raw in enumerate(read_lines(path), 1)]
    if len(found) != count:
        fix = "give one translation a line, in the order of the sources"
        raise DataError(f"{len(found):,} translations for {count:,} pairs", where=str(path), fix=fix)
    return found


def as_lines(translations: Sequence[str]) -> str:
    """One line for each, whatever the model wrote."""
    return "".join(f"{one_line(text)}\n" for text in translations)


def _frequencies(folder: RunFolder, config: Config, sources: Sequence[str], say: Say) -> tuple[Counter[str], str]:
    """How often the sources' words occur in the training text, if it is there, else in themselves; and which it is."""
    try:
        texts = text_of(folder, config, "train")
        return frequencies(sources, (pair.src for text in texts for pair in text)), "the training text"
    except UserError as error:
        why = f"{error.where}: {error.what}" if error.where else error.what
        say(f"word frequencies are counted in the source text itself, for want of the training text: {why}")
        return frequencies(sources, sources), "the source text itself"


def _warn_of_ter(pairs: Sequence[TextPair], metrics: Metrics, *, systems: int) -> None:
    seconds = systems * ter_seconds([pair.tgt for pair in pairs])
    if metrics.ter and seconds > PATIENCE:
        _say(f"TER may take {seconds:,.0f} s on texts so long; --no-ter leaves it out")


def _lines(facts: Mapping[str, object], evaluation: Evaluation, comparison: Comparison | None) -> list[str]:
    head = f"{facts['pairs']:,} pairs, beam {facts['beam_size']}, length penalty {facts['length_penalty']:g}"
    return [head, *evaluation.lines(), *(["", *comparison.findings()] if comparison else [])]


def _json(facts: Mapping[str, object], evaluation: Evaluation, comparison: Comparison | None) -> list[str]:
    found = {**facts, **evaluation.to_json(), "comparisons": comparison.to_json() if comparison else []}
    return [json.dumps(found, ensure_ascii=False, indent=2, allow_nan=False)]


def _evaluation_text(folder: RunFolder, config: Config) -> tuple[str, Sequence[PairStream]]:
    """The test text where there is one, else the validation text; and which of them it is."""
    data = config.data
    if data.test_data_path:
        return "test", [source(data, data.test_data_path, data.test_tgt_path)]
    return "validation", text_of(folder, config, "val")


def _compared(pairs: Sequence[TextPair], translations: Sequence[str]) -> str:
    """A table of what was asked for and what came: wrong answers first, in the order of the text."""
    rows = [
        ("right" if text == pair.tgt else "wrong", pair.src, pair.tgt, text)
        for pair, text in zip(pairs, translations, strict=True)
    ]
    rows = [("answer", "source", "reference", "translation"), *sorted(rows, key=lambda row: row[0], reverse=True)]
    return as_lines(["\t".join(cell.replace("\t", " ") for cell in row) for row in rows])


def _say(line: str) -> None:
    print(line, file=sys.stderr)
