"""Results stay the same: 500 steps with all optimisations, beside the plain fp32 ones; `python benchmark/overlay.py`.

The same weights at the start, the same batches and dropout; the plain ones are fp32, not compiled, with all logits at
once. Writes overlay.json and overlay.png.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import machine
from benchmark.race.workload import endless, prepare
from benchmark.rungs.options import configured, parser
from benchmark.rungs.rung import Rung, Switches
from pytorch_dl.files import write_json
from pytorch_dl.process import keep_freed_memory

PLAIN = Switches(modern_layers=True, hashed_dropout=True, packed_rows=True)
SMOOTHED = 20  # steps of a point


def main(argv: Sequence[str] | None = None) -> int:
    """Train both."""
    options = parser(__doc__, steps=500).parse_args(argv)
    where = machine()
    keep_freed_memory()
    config = configured(options)
    optimised = replace(PLAIN, bf16=True, fused_optimizer=True, loss_in_chunks=True)
    whole = replace(optimised, compiled_layers=not options.no_compile)
    with tempfile.TemporaryDirectory() as name:
        work = prepare(config, Path(name), pairs_per_step=options.pairs_per_step)
        curves = {}
        for label, on in (("plain fp32", PLAIN), ("all optimisations", whole)):
            rung = Rung(label, on, work)
            curves[label] = [rung.step(batch) for batch in islice(endless(work.loader), options.steps)]
            print(f"{label}: {statistics.mean(curves[label][-SMOOTHED:]):.4f} after {options.steps} steps", flush=True)
    plain, ours = curves.values()
    gaps = [abs(a - b) for a, b in zip(smoothed(plain), smoothed(ours), strict=True)]
    write_json(options.out / "overlay.json", {"machine": where, "largest_gap": max(gaps), "curves": curves})
    write_overlay(options.out / "overlay.png", curves)
    print(f"largest gap between means of {SMOOTHED} steps: {max(gaps):.4f} nats a token")
    return 0


def smoothed(losses: list[float]) -> list[float]:
    """Means of so many steps each."""
    return [statistics.mean(losses[start : start + SMOOTHED]) for start in range(0, len(losses), SMOOTHED)]


def write_overlay(path: Path, curves: dict[str, list[float]]) -> None:
    """Both curves in one frame, and their difference below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for (label, losses), colour, width in zip(curves.items(), ("#e08214", "#2a78b5"), (3, 1), strict=True):
        above.plot(range(1, len(losses) + 1), losses, label=label, color=colour, linewidth=width)
    above.set_ylabel("training loss, nats a token", fontsize=8)
    above.legend(fontsize=8, frameon=False)
    plain, ours = curves.values()
    below.plot([b - a for a, b in zip(plain, ours, strict=True)], color="#2a78b5", linewidth=0.8)
    below.axhline(0, color="black", linewidth=0.6)
    below.set_ylabel("difference", fontsize=8)
    below.set_xlabel("optimizer step", fontsize=8)
    for axes in (above, below):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    raise SystemExit(main())
