"""How training went: loss, perplexity, learning rate, gradients, speed, memory and scores, step by step."""

from collections.abc import Callable, Sequence

from pytorch_dl.reporting.html import Html, Part, note, part, tag
from pytorch_dl.reporting.line_chart import Curve, Points, line_chart
from pytorch_dl.reporting.run_record import RunRecord
from pytorch_dl.scoring.names import BLEU, CHRF, EXACT_MATCH
from pytorch_dl.training.record_lines import Row, numbers

SPREAD = 20.0  # between the largest and the smallest gradient norm, above which their axis is logarithmic
SCORES = {"bleu": (BLEU, ""), "chrf": (CHRF, ""), "exact_match": (EXACT_MATCH.capitalize(), "%")}


def training_section(runs: Sequence[RunRecord]) -> Part:
    """All curves of all runs; what none of them recorded is said."""
    made = {
        "loss": line_chart("Loss", "nats a token, without smoothing", _both(runs, "nll", "val_loss")),
        "perplexity": line_chart("Perplexity", "e to the loss", _both(runs, "ppl", "val_ppl"), log=True),
        "learning rate": line_chart("Learning rate", "", _curves(runs, _train("learning_rate")), from_zero=True),
        "gradient norm": _gradient_chart(runs),
        "tokens a second": line_chart(
            "Tokens a second", "real ones, both sides", _curves(runs, _timing("tokens_per_second")), from_zero=True
        ),
        "batch efficiency": line_chart(
            "Batch efficiency", "% of positions that hold tokens", _curves(runs, _efficiency)
        ),
        "memory": line_chart(
            "Memory of the process", "GB, its peak", _curves(runs, _gigabytes("peak_rss_mb")), from_zero=True
        ),
        "GPU memory": line_chart(
            "Memory of the GPU", "GB, its peak", _curves(runs, _gigabytes("gpu_memory_mb")), from_zero=True
        ),
    }
    for name, (title, unit) in SCORES.items():
        some = _how_many(runs)
        made[title] = line_chart(
            title, f"{unit} on {some} validation pairs, greedy".strip(), _validations(runs, name), from_zero=True
        )
    missing = [name for name, chart in made.items() if chart is None and name not in ("GPU memory", BLEU)]
    explained = (
        "Across: optimizer steps. Training loss is measured with dropout, validation loss without. "
        "A ring marks the weights that were kept as the best."
    )
    told = note(f"Not recorded: {', '.join(missing)}.") if missing else None
    charts = tag("div", {"class": "charts"}, (chart for chart in made.values() if chart))
    return part("training", "Training", note(explained), charts, told)


def _curves(runs: Sequence[RunRecord], points: Callable[[RunRecord], Points]) -> list[Curve]:
    """One for each run; the only one needs no name."""
    return [Curve(run.name if len(runs) > 1 else "", points(run), colour=place) for place, run in enumerate(runs)]


def _both(runs: Sequence[RunRecord], train: str, validation: str) -> list[Curve]:
    """Training faint, validation clear."""
    curves = []
    for place, run in enumerate(runs):
        name = f"{run.name}, " if len(runs) > 1 else ""
        best = float(run.best["step"]) if run.best else None
        points = numbers(run.metrics.of("validation"), validation)
        curves += [
            Curve(f"{name}training", numbers(run.metrics.of("train"), train), colour=place, faint=bool(points)),
            Curve(f"{name}validation", points, colour=place, marked=True, best=best),
        ]
    return curves


def _validations(runs: Sequence[RunRecord], name: str) -> list[Curve]:
    return [
        Curve(
            run.name if len(runs) > 1 else "",
            numbers(run.metrics.of("validation"), name),
            colour=place,
            marked=True,
            best=float(run.best["step"]) if run.best else None,
        )
        for place, run in enumerate(runs)
    ]


def _gradient_chart(runs: Sequence[RunRecord]) -> Html | None:
    curves = _curves(runs, _train("grad_norm"))
    norms = [norm for curve in curves for _, norm in curve.points]
    wide = bool(norms) and min(norms) > 0 and max(norms) > SPREAD * min(norms)
    return line_chart("Gradient norm", "mean, before it is clipped", curves, log=wide, from_zero=True)


def _train(name: str) -> Callable[[RunRecord], Points]:
    return lambda run: numbers(run.metrics.of("train"), name)


def _timing(name: str) -> Callable[[RunRecord], Points]:
    return lambda run: numbers(run.timing.rows, name)


def _gigabytes(name: str) -> Callable[[RunRecord], Points]:
    return lambda run: [(step, value / 1024) for step, value in numbers(run.timing.rows, name)]


def _efficiency(run: RunRecord) -> Points:
    """Since the last line; of runs that did not record it, of each epoch."""
    rows: Sequence[Row] = run.timing.rows
    found = numbers(rows, "efficiency") or numbers(run.metrics.of("epoch"), "efficiency")
    return [(step, 100 * value) for step, value in found]


def _how_many(runs: Sequence[RunRecord]) -> str:
    counts = sorted({run.config.training.eval_decode for run in runs} - {0})
    return " or ".join(f"{count:,}" for count in counts)
