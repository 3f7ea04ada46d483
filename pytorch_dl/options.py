"""The options and arguments of the commands, with their help: each is said once."""

from pathlib import Path
from typing import Annotated

import typer

Src = Annotated[
    str | None, typer.Option(help="Source text; or a TSV, CSV, JSONL or Parquet file, or hf://ID, with both sides.")
]
Tgt = Annotated[str | None, typer.Option(help="Target text, line by line beside the source.")]
ValSrc = Annotated[str | None, typer.Option(help="Validation source, given as --src is.")]
ValTgt = Annotated[str | None, typer.Option(help="Validation target.")]
TestSrc = Annotated[str | None, typer.Option(help="Test source, scored at the end.")]
TestTgt = Annotated[str | None, typer.Option(help="Test target.")]
Split = Annotated[str | None, typer.Option(metavar="N", help="Hold N pairs out of the training text for validation.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML or JSON file with settings.")]
Preset = Annotated[str | None, typer.Option(help="Template to start from; `pytorch-dl config show` lists them.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="section.key=value", help="Settings, over file and template.")
]
ConfigAndOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] section.key=value", help="File with settings, and settings over file and template."
    ),
]
Profile = Annotated[
    bool,
    typer.Option("--profile", help="Profile some steps: where time and memory go, into profile/ of the run folder."),
]
Out = Annotated[Path | None, typer.Option(help="Run folder; runs/DATE-TIME when left out.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, the --out of a run.")]
Model = Annotated[
    str, typer.Argument(metavar="RUN", help="Run folder, the --out of a run; an export in safetensors; hf://ORG/NAME.")
]
WeightsFrom = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Begin with the weights of a run, an export or hf://ORG/NAME, as far as they fit: at step 0, "
        "with a new optimizer.",
    ),
]
Override = Annotated[
    bool, typer.Option("--override", help="Go on with settings that were changed in RUN/config.yaml after it began.")
]
Beam = Annotated[int, typer.Option(min=1, help="Beams; 1 is greedy search.")]

File = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="Text to translate, one line each; stdin when left out.")
]
Text = Annotated[list[str] | None, typer.Option("--text", "-t", help="A line to translate; may be repeated.")]
TranslationOut = Annotated[
    Path | None,
    typer.Option("--out", help="File for the translations, rather than stdout; after a kill --resume goes on."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the unfinished --out where it stopped.")]
Jsonl = Annotated[
    bool, typer.Option("--jsonl", help='Lines are JSON: {"text": ..., "prefix": ..., "ban": [...], "require": [...]}.')
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object for each line, with scores, tokens and their log-probabilities."
    ),
]
Align = Annotated[
    bool,
    typer.Option(
        "--align",
        help="Behind each translation a tab and its words' sources by attention, as 0-1: source word 0, word 1; "
        "with --json token by token.",
    ),
]
NBest = Annotated[int, typer.Option(min=1, help="Translations of each line, with scores.")]
LengthPenalty = Annotated[float, typer.Option(help="Exponent of the length in the score.")]
LengthNorm = Annotated[
    str,
    typer.Option(metavar="power|gnmt", help="Length in the score: itself, or (5 + length) / 6 as Google NMT has it."),
]
EarlyStopping = Annotated[
    str,
    typer.Option(
        metavar="first|likely|sure",
        help="With as many translations found as there are beams, stop: at once; when none that is begun is better; "
        "when none can become better.",
    ),
]
MaxRatio = Annotated[float, typer.Option(help="A translation has at most so many tokens for each of the source ...")]
MaxOffset = Annotated[int, typer.Option(help="... and so many more.")]
MinLength = Annotated[int, typer.Option(help="A translation has at least so many tokens, its end included.")]
NoRepeat = Annotated[int, typer.Option(metavar="N", help="No run of N tokens comes twice; 0 lets it.")]
Groups = Annotated[int, typer.Option(help="Groups of beams, each avoiding what the others take: diverse --nbest.")]
Diversity = Annotated[float, typer.Option(help="With --groups: what it costs to take the token of another group.")]
Sample = Annotated[bool, typer.Option("--sample", help="Draw --nbest translations at random rather than search.")]
Temperature = Annotated[float, typer.Option(help="With --sample: below 1 nearer to the likeliest, above 1 wilder.")]
TopK = Annotated[int, typer.Option(help="With --sample: from the so many likeliest tokens; 0 from all.")]
TopP = Annotated[float, typer.Option(help="With --sample: from the likeliest tokens of this probability together.")]
MinP = Annotated[
    float, typer.Option(help="With --sample: from tokens at least so likely, as a share of the likeliest.")
]
Seed = Annotated[int, typer.Option(help="With --sample: draws are a function of it and of the line's number.")]
Prefix = Annotated[str, typer.Option(help="How every translation begins.")]
Ban = Annotated[list[str] | None, typer.Option(help="A word or phrase that no translation holds; may be repeated.")]
Require = Annotated[list[str] | None, typer.Option(help="A word or phrase that each must hold; may be repeated.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[
    str,
    typer.Option(metavar="fp32|bf16|int8", help="Of the matrix products: lower is faster, and costs a little quality."),
]

Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets in everybody who reaches this machine.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")]
MaxLines = Annotated[int, typer.Option(min=1, help="The most texts of a request ...")]
MaxCharacters = Annotated[int, typer.Option(min=1, help="... and the most characters of each.")]
MaxWaiting = Annotated[int, typer.Option(min=1, help="The most texts that may wait; who comes then is sent away.")]
MaxSeconds = Annotated[float, typer.Option(min=0.1, help="The longest that a request may wait for its answer.")]

TestText = Annotated[str, typer.Option("--src", help="Source text, or one file with both sides.")]
Ref = Annotated[str | None, typer.Option(help="Reference translations.")]
Save = Annotated[Path | None, typer.Option(help="File for the translations.")]
Compare = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Another system's translations of the source, one a line; may be repeated."),
]
Ter = Annotated[
    bool, typer.Option("--ter/--no-ter", help="TER, whose time grows with the cube of a text's length, or not.")
]
BleuTokenizer = Annotated[
    str, typer.Option(metavar="NAME", help="How BLEU finds words: 13a; zh, ja-mecab, ko-mecab, char, flores200, ...")
]
Comet = Annotated[
    str | None,
    typer.Option(metavar="PYTHON", help="COMET as well, by this Python, in whose environment it is installed."),
]
CometModel = Annotated[str, typer.Option(metavar="NAME", help="With --comet: its model.")]
EvaluationJson = Annotated[bool, typer.Option("--json", help="Print all of it as one JSON object.")]

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are laid over each other.")]
PageOut = Annotated[
    Path | None, typer.Option("--out", help="File for the page; RUN/report.html, of several runs report.html.")
]
Evaluations = Annotated[
    list[Path] | None,
    typer.Option("--evaluation", metavar="FILE", help="What `evaluate --compare ... --json` printed; may be repeated."),
]
Attention = Annotated[
    bool, typer.Option("--attention/--no-attention", help="Maps of where the model looked, for which it is loaded.")
]
Vary = Annotated[
    list[str] | None,
    typer.Option(metavar="section.key=a,b,...", help="Values to compare; repeated, all combinations are arms."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings of each arm, with the seeds 1, 2, ...")]
Budget = Annotated[
    str | None,
    typer.Option(help="Of each training: 5m, '2M tokens' or '2k steps'; what the settings say when left out."),
]
AtOnce = Annotated[int, typer.Option(min=1, help="Trainings side by side, which share the CPU's threads.")]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="bleu|chrf|exact_match|...",
        help="What decides: training.early_stopping_metric, or what suits the text, when left out.",
    ),
]
ComparisonOut = Annotated[Path, typer.Option("--out", help="Folder of the comparison; the same command goes on in it.")]

ExportTo = Annotated[
    str, typer.Option("--to", metavar="ctranslate2|onnx|safetensors", help="Form of the model: for which program.")
]
ExportOut = Annotated[
    str, typer.Option("--out", help="Folder to write, an older export in it is replaced; or hf://ORG/NAME.")
]
Private = Annotated[
    bool, typer.Option("--private", help="Where the repository hf://ORG/NAME is made, make it private.")
]
Quantization = Annotated[
    str | None,
    typer.Option(
        metavar="int8|int8_float32|float16|...",
        help="Of the weights for ctranslate2: smaller files; float32 when left out.",
    ),
]
