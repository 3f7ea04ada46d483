"""The command line: one small function for each command; what they do lies elsewhere.

Heavy imports wait until a command needs them, so that help and completion are quick.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pytorch_dl import options as o
from pytorch_dl.arguments import file_and_overrides, new_run_folder, settings_of, text_paths
from pytorch_dl.errors import ConfigError

app = typer.Typer(
    help="Train encoder-decoder Transformers from scratch on your own text pairs.",
    epilog="The word --debug anywhere in a command shows where an error comes from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Show configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@app.command()
def run(
    overrides: o.Overrides = None,
    src: o.Src = None,
    tgt: o.Tgt = None,
    val_src: o.ValSrc = None,
    val_tgt: o.ValTgt = None,
    test_src: o.TestSrc = None,
    test_tgt: o.TestTgt = None,
    split: o.Split = None,
    config: o.ConfigFile = None,
    preset: o.Preset = None,
    out: o.Out = None,
    beam: o.Beam = 5,
    weights_from: o.WeightsFrom = None,
    profile: o.Profile = False,
) -> None:
    """Everything from raw text to an evaluated model: check, tokenizer, training, evaluation, report."""
    paths = text_paths(src, tgt, val_src, val_tgt, test_src, test_tgt, split)
    settings = settings_of(config, preset, overrides, paths)
    from pytorch_dl.run import start

    start(settings, out or new_run_folder(), beam_size=beam, weights_from=weights_from, profile=profile)


@app.command("train")
def train_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML or JSON file with settings.")],
    overrides: o.Overrides = None,
    out: o.Out = None,
    weights_from: o.WeightsFrom = None,
    profile: o.Profile = False,
) -> None:
    """Train by a configuration file, without the check before and the evaluation after."""
    settings = settings_of(config, None, overrides, {})
    from pytorch_dl.run import start

    start(settings, out or new_run_folder(), beam_size=None, weights_from=weights_from, profile=profile)


@app.command()
def estimate(
    words: o.ConfigAndOverrides = None,
    src: o.Src = None,
    tgt: o.Tgt = None,
    val_src: o.ValSrc = None,
    val_tgt: o.ValTgt = None,
    split: o.Split = None,
    config: o.ConfigFile = None,
    preset: o.Preset = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of training steps that are timed, after compilation.")] = 20,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Try some steps, or count and use formulas only.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print all of it as one JSON object.")] = False,
) -> None:
    """Say before a training what it will take: parameters, FLOPs, steps, memory and, by its first steps, time."""
    paths = text_paths(src, tgt, val_src, val_tgt, None, None, split)
    file, overrides = file_and_overrides(words or [], config)
    settings = settings_of(file, preset, overrides, paths)
    from pytorch_dl.commands import print_estimate

    print_estimate(settings, seconds=seconds, run=run, as_json=json)


@app.command()
def resume(run_folder: o.Run, override: o.Override = False) -> None:
    """Go on with a run that was stopped or killed; it needs nothing but the folder."""
    from pytorch_dl.run import go_on
    from pytorch_dl.training.run_folder import RunFolder

    go_on(RunFolder(run_folder), accept_changes=override)


@app.command()
def verify(run_folder: o.Run) -> None:
    """Say of each part of a run folder whether it is whole and fits the others; ends with 4 if one is not.

    What data.cache_dir and logging.log_dir have put elsewhere is named, not looked at.
    """
    from pytorch_dl.commands import print_verified

    print_verified(run_folder)


@app.command()
def replay(
    run_folder: o.Run,
    step: Annotated[
        int | None, typer.Option(min=1, help="The last to recompute (that of the newest checkpoint).")
    ] = None,
    failure: Annotated[bool, typer.Option("--failure", help="The step that ended the run by exit code 5.")] = False,
) -> None:
    """Recompute the steps up to one from the checkpoint before it, and compare the bits; ends with 4 if they differ."""
    from pytorch_dl.commands import print_replayed, print_replayed_failure

    if failure and step is not None:
        raise ConfigError("--step and --failure exclude each other", fix="give one of them")
    if failure:
        print_replayed_failure(run_folder)
    else:
        print_replayed(run_folder, step)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="On the disk to try (here).")] = Path("."),
    kills: Annotated[int, typer.Option(min=0, help="Of a training, which takes four seconds for each.")] = 20,
) -> None:
    """Try whether saves and trainings survive kills on this machine and disk; two minutes; ends with 6 if not."""
    from pytorch_dl.commands import print_checkup

    print_checkup(folder, kills=kills)


@app.command()
def check(
    overrides: o.Overrides = None,
    src: o.Src = None,
    tgt: o.Tgt = None,
    val_src: o.ValSrc = None,
    val_tgt: o.ValTgt = None,
    test_src: o.TestSrc = None,
    test_tgt: o.TestTgt = None,
    config: o.ConfigFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look at texts before training on them: counts, faults with their places, overlaps, oddities."""
    paths = text_paths(src, tgt, val_src, val_tgt, test_src, test_tgt)
    settings = settings_of(config, None, overrides, paths)
    from pytorch_dl.commands import print_check

    print_check(settings, as_json=json)


@app.command()
def translate(
    run_folder: o.Model,
    file: o.File = None,
    text: o.Text = None,
    out: o.TranslationOut = None,
    resume: o.Resume = False,
    jsonl: o.Jsonl = False,
    json: o.Json = False,
    align: o.Align = False,
    beam: o.Beam = 5,
    nbest: o.NBest = 1,
    length_penalty: o.LengthPenalty = 1.0,
    length_norm: o.LengthNorm = "power",
    early_stopping: o.EarlyStopping = "likely",
    max_ratio: o.MaxRatio = 3.0,
    max_offset: o.MaxOffset = 20,
    min_length: o.MinLength = 0,
    no_repeat: o.NoRepeat = 0,
    groups: o.Groups = 1,
    diversity: o.Diversity = 0.5,
    sample: o.Sample = False,
    temperature: o.Temperature = 1.0,
    top_k: o.TopK = 0,
    top_p: o.TopP = 1.0,
    min_p: o.MinP = 0.0,
    seed: o.Seed = 1,
    prefix: o.Prefix = "",
    ban: o.Ban = None,
    require: o.Require = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
) -> None:
    """Translate lines: N in, N out, in order."""
    from pytorch_dl.export.hub import local_folder
    from pytorch_dl.generation.constraints import Constraints
    from pytorch_dl.generation.settings import SearchSettings
    from pytorch_dl.translating import Form, translate_lines

    settings = SearchSettings(
        beam_size=beam if sample else max(beam, nbest),
        n_best=nbest,
        length_penalty=length_penalty,
        length_norm=length_norm,
        early_stopping=early_stopping,
        max_length_ratio=max_ratio,
        max_length_offset=max_offset,
        min_length=min_length,
        no_repeat_ngram=no_repeat,
        diversity_groups=groups,
        diversity_penalty=diversity,
        sampling=sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        scored=json or nbest > 1,
    )
    constraints = Constraints(prefix, tuple(ban or ()), tuple(require or ()))
    form = Form(as_json=json, with_scores=nbest > 1, with_alignment=align)
    translate_lines(
        local_folder(run_folder),
        file,
        text,
        settings,
        constraints,
        form,
        jsonl=jsonl,
        out=out,
        resume=resume,
        device=device,
        precision=precision,
    )


@app.command()
def evaluate(
    run_folder: o.Model,
    src: o.TestText,
    ref: o.Ref = None,
    compare: o.Compare = None,
    comet: o.Comet = None,
    comet_model: o.CometModel = "Unbabel/wmt22-comet-da",
    ter: o.Ter = True,
    bleu_tokenizer: o.BleuTokenizer = "13a",
    beam: o.Beam = 5,
    length_penalty: o.LengthPenalty = 1.0,
    save: o.Save = None,
    json: o.EvaluationJson = False,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
) -> None:
    """Score translations: BLEU, chrF, TER, exact match, error rates, perplexity, with intervals; compare systems."""
    from pytorch_dl.evaluating import Metrics, print_evaluation
    from pytorch_dl.export.hub import local_folder
    from pytorch_dl.generation.settings import SearchSettings

    print_evaluation(
        local_folder(run_folder),
        src,
        ref,
        SearchSettings(beam_size=beam, length_penalty=length_penalty),
        Metrics(ter, bleu_tokenizer, comet, comet_model),
        compared=compare or [],
        device=device,
        precision=precision,
        save=save,
        as_json=json,
    )


@app.command()
def report(
    runs: o.Runs,
    out: o.PageOut = None,
    evaluation: o.Evaluations = None,
    attention: o.Attention = True,
) -> None:
    """Write one page of HTML on a run or several: curves, scores, translations, settings; it needs nothing else."""
    from pytorch_dl.commands import print_page

    print_page(runs, out, evaluations=evaluation or [], with_attention=attention)


@app.command()
def compare(
    out: o.ComparisonOut,
    words: o.ConfigAndOverrides = None,
    vary: o.Vary = None,
    seeds: o.Seeds = 3,
    budget: o.Budget = None,
    at_once: o.AtOnce = 1,
    metric: o.Metric = None,
    src: o.Src = None,
    tgt: o.Tgt = None,
    val_src: o.ValSrc = None,
    val_tgt: o.ValTgt = None,
    test_src: o.TestSrc = None,
    test_tgt: o.TestTgt = None,
    split: o.Split = None,
    config: o.ConfigFile = None,
    preset: o.Preset = None,
    beam: o.Beam = 5,
    json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
) -> None:
    """Train arms that differ in some settings, each with several seeds, and say which differ by more than luck."""
    file, overrides = file_and_overrides(words or [], config)
    paths = text_paths(src, tgt, val_src, val_tgt, test_src, test_tgt, split)
    base = settings_of(file, preset, overrides, paths, complete=False)
    from pytorch_dl.experiments.arms import grid

    arms = grid(base, vary or [])
    from pytorch_dl.comparing.comparison import print_comparison

    print_comparison(
        arms, out, seeds=seeds, budget=budget, at_once=at_once, metric=metric, beam_size=beam, as_json=json
    )


@app.command()
def export(
    run_folder: o.Model,
    to: o.ExportTo,
    out: o.ExportOut,
    quantization: o.Quantization = None,
    private: o.Private = False,
) -> None:
    """Write the model for use elsewhere, compared with the original: CTranslate2, ONNX, safetensors."""
    from pytorch_dl.export.hub import local_folder
    from pytorch_dl.exporting import export_run

    export_run(local_folder(run_folder), to=to, out=out, quantization=quantization, private=private)


@app.command()
def serve(
    run_folder: o.Model,
    host: o.Host = "127.0.0.1",
    port: o.Port = 8000,
    max_lines: o.MaxLines = 100,
    max_characters: o.MaxCharacters = 2000,
    max_waiting: o.MaxWaiting = 1000,
    max_seconds: o.MaxSeconds = 60.0,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
) -> None:
    """Translate on a web page, and for programs by POST /translate; on this machine alone, unless --host is given."""
    from pytorch_dl.serving.extra import require_extra

    require_extra()
    from pytorch_dl.export.hub import local_folder
    from pytorch_dl.serving.server import serve_run
    from pytorch_dl.serving.wish import Limits

    limits = Limits(lines=max_lines, characters=max_characters, waiting_lines=max_waiting, seconds=max_seconds)
    serve_run(local_folder(run_folder), limits, host=host, port=port, device=device, precision=precision)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/dates"),
) -> None:
    """Train on the bundled corpus of dates in many languages, evaluate, and translate lines of yours."""
    from pytorch_dl.demo import demonstrate

    demonstrate(out)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def benchmark(context: typer.Context) -> None:
    """Measure speed and memory beside other trainers; --help lists the options, --memory shows how cost grows.

    Of a checkout: an installed package does not hold the measurements.
    """
    script = Path(__file__).resolve().parent.parent / "benchmark" / "benchmark.py"
    if not script.exists():
        raise ConfigError("the measurements are not installed", fix="run it in a clone of the repository")
    raise SystemExit(subprocess.run([sys.executable, str(script), *context.args]).returncode)


@config_app.command("show")
def config_show(
    preset: Annotated[
        str | None, typer.Argument(metavar="PRESET", help="Template; without one, all are listed.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON rather than YAML.")] = False,
) -> None:
    """Print a template with all settings and what they mean, as a file that --config reads."""
    from pytorch_dl.config import get_config, to_described_yaml, to_json
    from pytorch_dl.config.templates import TEMPLATES

    if preset is None:
        typer.echo("\n".join(TEMPLATES))
    else:
        typer.echo((to_json if json else to_described_yaml)(get_config(preset)).rstrip())


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of configuration files, for editors: as schema.json beside a file it is found."""
    import json

    from pytorch_dl.config.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
