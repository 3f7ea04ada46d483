"""A comparison from configurations to findings: `compare({"relu": ..., "swiglu": ...}, "runs/activations")`.

FOLDER/runs/ARM/seed-N are run folders like any other; the rest of the folder is described in `ground`.
"""

import json
import os
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytorch_dl.changes import flat_settings
from pytorch_dl.comparing.ground import Ground, Prepared
from pytorch_dl.comparing.results import Results, write_results
from pytorch_dl.config import Config
from pytorch_dl.config.load import nearest, with_values
from pytorch_dl.dataset.efficient_dataloader import read_pairs, source
from pytorch_dl.dataset.text_lines import one_line
from pytorch_dl.errors import ConfigError, DataError, NonFiniteError
from pytorch_dl.evaluating import read_translations
from pytorch_dl.evaluation.report import text_scores
from pytorch_dl.experiments.arms import Budget, factors, parse_budget, require_arms
from pytorch_dl.experiments.costs import Cost, read_cost
from pytorch_dl.experiments.trials import Trial, run_trials
from pytorch_dl.experiments.verdict import find
from pytorch_dl.files import RunLock, read_json
from pytorch_dl.scoring.names import BLEU, CHARACTER_ERROR_RATE, CHRF, CHRF_PLUS_PLUS, EXACT_MATCH, TOKEN_ERROR_RATE
from pytorch_dl.scoring.score import Score
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.trackers import require_packages

CHOSE = " (which chose the weights as well, and flatters all arms alike)"
LOW_RATE = 0.1  # of the highest
FEW_WORDS = 4  # a reference of fewer is no sentence: there is one right answer
METRICS = {
    "bleu": BLEU,
    "chrf": CHRF,
    "chrf++": CHRF_PLUS_PLUS,
    "exact_match": EXACT_MATCH,
    "token_error_rate": TOKEN_ERROR_RATE,
    "character_error_rate": CHARACTER_ERROR_RATE,
}


def compare(
    configs: Mapping[str, Config],
    out: str | Path,
    *,
    seeds: int = 3,
    budget: str | None = None,
    at_once: int = 1,
    beam_size: int = 5,
    metric: str | None = None,
    progress: Progress | None = None,
) -> Results:
    """Train each arm with the seeds 1 to `seeds` in the folder `out`, and tell which differ from the first by more
    than luck; what is trained there already is not trained again.

    `budget` is what each training may take: "5m", "2M tokens", "2k steps"; by default what its configuration says.
    `metric` decides, one of METRICS. Raises ConfigError for arms that cannot be compared, CheckpointError where `out`
    holds another comparison, Interrupted after Ctrl-C, and whatever ended a training.
    """
    progress = progress or Progress()
    require_arms(configs)
    for config in configs.values():
        require_packages(config.logging)
    _require_sense(configs, seeds=seeds, at_once=at_once, metric=metric)
    limit = parse_budget(budget) if budget else None
    if limit and len({_limited(config, limit) for config in configs.values()}) > 1:
        raise ConfigError("arms differ in what --budget makes equal", fix="leave out one of the two")
    ground = Ground(Path(out), progress.say)
    ground.refuse_other_folder()
    terms = {"seeds": seeds, "budget": budget, "beam_size": beam_size, "at_once": at_once}
    with RunLock(ground.folder):
        decided = ground.begin(configs, terms)
        arms = {name: ground.prepare(config, decided, limit) for name, config in configs.items()}
        trials = _trials(ground.folder, arms, seeds=seeds)
        progress.say(f"{len(arms)} arms x {seeds} seeds = {len(trials)} trainings in {ground.folder}")
        for trial in trials:
            trial.begin(arms[trial.arm].tokenizers, beam_size=beam_size)
        failed = run_trials(trials, _command, at_once=at_once, progress=progress)
        results = _results(configs, arms, trials, failed, metric=metric, budget=limit, beam_size=beam_size)
        write_results(ground.folder, results)
        return results


def print_comparison(
    arms: Mapping[str, Config],
    out: Path,
    *,
    seeds: int,
    budget: str | None,
    at_once: int,
    metric: str | None,
    beam_size: int,
    as_json: bool,
) -> None:
    """What the command `compare` does and prints."""
    results = compare(arms, out, seeds=seeds, budget=budget, at_once=at_once, beam_size=beam_size, metric=metric)
    if as_json:
        print(json.dumps({**results.to_json(), "costs": [cost.to_json() for cost in results.costs]}, indent=2))
        return
    print(
        "\n".join([*results.lines(), "", *results.cost_lines(), "", f"picture and numbers: {out}/results.png, .json"])
    )


def _require_sense(configs: Mapping[str, Config], *, seeds: int, at_once: int, metric: str | None) -> None:
    data = next(iter(configs.values())).data
    if not (data.test_data_path or data.val_data_path or data.val_split):
        raise ConfigError("there is no text to score the arms on", fix="give --test-src, --val-src or --split N")
    if seeds < 1 or at_once < 1:
        raise ConfigError(f"expected at least 1, got seeds {seeds} and at once {at_once}", fix="give 1 or more")
    if metric is not None and metric not in METRICS:
        raise ConfigError(f"unknown metric {metric!r}{nearest(metric, METRICS)}", fix=f"one of {', '.join(METRICS)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("compare begins its processes itself", fix="call it without torchrun")


def _limited(config: Config, budget: Budget) -> float | None:
    """The setting that a budget takes the place of."""
    return config.training.time_limit if budget.kind == "time" else config.training.max_steps


def _trials(folder: Path, arms: Mapping[str, Prepared], *, seeds: int) -> list[Trial]:
    """Seed by seed, so that what the machine does meanwhile falls on all arms alike."""
    return [
        Trial(
            name,
            seed,
            RunFolder(folder / "runs" / _folder_name(number, name) / f"seed-{seed}"),
            with_values(arm.config, {"system.seed": seed}),
        )
        for seed in range(1, seeds + 1)
        for number, (name, arm) in enumerate(arms.items(), 1)
    ]


def _folder_name(number: int, arm: str) -> str:
    return f"{number:02d}-{re.sub('[^A-Za-z0-9=.,_+-]+', '-', arm)[:80]}"


def _command(run: Path) -> Sequence[str]:
    return [sys.executable, "-m", "pytorch_dl.comparing.trial_process", str(os.getpid()), str(run)]


def _results(
    configs: Mapping[str, Config],
    arms: Mapping[str, Prepared],
    trials: Sequence[Trial],
    failed: Mapping[Trial, str],
    *,
    metric: str | None,
    budget: Budget | None,
    beam_size: int,
) -> Results:
    left_out = {trial.arm: f"seed {trial.seed} ended, {why}" for trial, why in failed.items()}
    whole = {name: [trial for trial in trials if trial.arm == name] for name in arms if name not in left_out}
    if len(whole) < 2:
        raise NonFiniteError("; ".join(f"{arm}: {why}" for arm, why in left_out.items()), fix="leave such arms out")
    for trial in trials:
        if trial not in failed:
            _require_text(trial, arms[trial.arm])
    config = next(iter(arms.values())).config
    text, references = _references(config)
    trained = {name: [_scores(trial, text, references) for trial in of_arm] for name, of_arm in whole.items()}
    names = [score.name for score in next(iter(trained.values()))[0]]
    decides, why = _deciding(config, references, names, metric)
    settings = {name: flat_settings(configs[name]) for name in whole}
    findings = find(trained, metric=decides, factors=factors(settings) if not left_out else {}, left_out=left_out)
    costs = [
        read_cost(name, [trial.folder for trial in of_arm], parameters=arms[name].parameters)
        for name, of_arm in whole.items()
    ]
    return Results(
        findings,
        costs,
        text=f"{text} text{CHOSE if text == 'validation' else ''}, {len(references):,} pairs, beam {beam_size}",
        why_metric=why,
        budget=budget,
        unfinished=_unfinished(arms, costs),
    )


def _require_text(trial: Trial, arm: Prepared) -> None:
    """Refuse a training on a text that was another for a while."""
    recorded = read_json(trial.folder.data)
    if {side: [text["sha256"] for text in recorded[side]] for side in recorded} != arm.texts:
        raise DataError("it was trained on another text", where=str(trial.folder.path), fix="delete this run folder")


def _references(config: Config) -> tuple[str, list[str]]:
    """The text that arms are scored on: what `run` scores at its end."""
    data = config.data
    name = "test" if data.test_data_path else "validation"
    paths = (data.test_data_path, data.test_tgt_path) if name == "test" else (data.val_data_path, data.val_tgt_path)
    assert paths[0], "there is a text to score on"
    pairs = read_pairs([source(data, paths[0], paths[1])], lambda _: None)
    return name, [one_line(pair.tgt) for pair in pairs]


def _scores(trial: Trial, text: str, references: Sequence[str]) -> list[Score]:
    lines = read_translations(trial.folder.path / f"{text}.translations.txt", count=len(references))
    return text_scores(lines, references, with_ter=False)


def _deciding(config: Config, references: Sequence[str], names: Sequence[str], asked: str | None) -> tuple[str, str]:
    """The metric that decides, and why."""
    chosen = config.training.early_stopping_metric
    if asked:
        name, why = METRICS[asked], "asked for"
    elif chosen in METRICS:
        name, why = METRICS[chosen], "training.early_stopping_metric"
    elif statistics.median(len(reference.split()) for reference in references) < FEW_WORDS or BLEU not in names:
        name, why = EXACT_MATCH, "the references are of few words, with one right answer; --metric chooses another"
    else:
        name, why = BLEU, "the references are sentences; --metric chooses another"
    if name not in names:
        raise ConfigError(f"{name} counts runs of four words, and no reference is so long", fix="give --metric chrf")
    return name, why


def _unfinished(arms: Mapping[str, Prepared], costs: Sequence[Cost]) -> str | None:
    """What is to be said where time was up long before the learning rate had fallen."""
    shares = [
        rate / config.training.learning_rate
        for cost in costs
        if (config := arms[cost.arm].config).training.time_limit and config.scheduler.name != "constant"
        for rate in cost.learning_rate
    ]
    if not shares or max(shares) < LOW_RATE:
        return None
    return (
        f"time was up while the learning rate stood at up to {max(shares):.0%} of its highest: a training.max_steps "
        "that fits the time lets it fall, and all arms come further"
    )
